"""The Airflow DAG that recounts engagement per hour wherever events changed."""

from __future__ import annotations

from dag_factories.aggregate import aggregate_dag

dag = aggregate_dag()
