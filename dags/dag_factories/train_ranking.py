"""The DAG that trains the ranking from every stored event."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from dag_factories.connections import AirflowSettings
from dag_factories.policy import daily_dag
from include.errors import hide_values

log = logging.getLogger(__name__)

_DOC = """
Chooses and learns the ranking from every stored event: once there are `millrace_train_min_engagements` of them, and
then every `millrace_train_every_days`. A trigger by hand always trains. The new version goes into service if it is not
worse than the one before on the same split; `python -m include.cli ranking use VERSION` goes back.
"""


def train_ranking_dag() -> DAG:
    """The DAG ``train_ranking``."""
    with daily_dag(
        "train_ranking", "40 2 * * *", "Trains the ranking, and puts it into service if it is not worse", _DOC, "train"
    ) as dag:
        train_ranking()
    return dag


@task
@hide_values()
def train_ranking(dag_run: Any = None) -> dict[str, Any]:
    """Returns the version, its NDCG@10, how far it is ahead of the version before, and whether it is in service."""
    from include.pipeline.train import is_training_due
    from include.pipeline.train import train_ranking as train
    from include.training import open_train_ports

    settings = AirflowSettings()
    with open_train_ports(settings) as ports:
        if dag_run.run_type != "manual" and not is_training_due(settings.pipeline, ports):
            raise AirflowSkipException("not due: too few events, or trained lately")
        trained = train(settings.pipeline, ports, log.info)
    model = trained.model
    ahead = None if trained.comparison is None else trained.comparison.ahead
    return {"version": model.version, "ndcg": model.ndcg, "ahead": ahead, "promoted": trained.is_promoted}
