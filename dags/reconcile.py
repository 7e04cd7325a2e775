"""The Airflow DAG that compares the stores of events every day."""

from __future__ import annotations

from dag_factories.reconcile import reconcile_dag

dag = reconcile_dag()
