"""The Airflow DAG that deletes what has become too old."""

from __future__ import annotations

from dag_factories.maintain import maintain_dag

dag = maintain_dag()
