"""The Airflow DAG that puts ready recommendations into Redis."""

from __future__ import annotations

from dag_factories.precompute import precompute_dag

dag = precompute_dag()
