"""The Airflow DAG that ingests a part of the topic again."""

from __future__ import annotations

from dag_factories.replay import replay_dag

dag = replay_dag()
