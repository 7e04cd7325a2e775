"""The Airflow DAG that counts engagement per hour again, wherever events changed."""

from __future__ import annotations

from dag_factories.aggregate import aggregate_dag

dag = aggregate_dag()
