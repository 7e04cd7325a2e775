"""The Airflow DAG that trains the ranking."""

from __future__ import annotations

from dag_factories.train_ranking import train_ranking_dag

dag = train_ranking_dag()
