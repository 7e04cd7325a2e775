"""The DAG that deletes what has become too old."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Param, task

from dag_factories.connections import AirflowSettings
from dag_factories.policy import daily_dag
from include.errors import hide_values

log = logging.getLogger(__name__)

_DOC = """
Deletes what has become too old, every day: batches of the ledger (added up by day first), claims and files of failed
runs, vectors of texts that no event has. Each kind has a variable, `millrace_keep_*_days`; 0 keeps it for ever. With
the parameter `dry_run` it only counts.
"""


def maintain_dag() -> DAG:
    """The DAG ``maintain``."""
    with daily_dag(
        "maintain",
        "20 4 * * *",
        "Deletes what has become too old",
        _DOC,
        "maintain",
        params={"dry_run": Param(False, type="boolean", description="only count")},
    ) as dag:
        maintain()
    return dag


@task
@hide_values()
def maintain(params: dict[str, Any] | None = None) -> dict[str, int]:
    """Returns how much of each kind was deleted; in a dry run, how much there is."""
    from include.maintenance import open_kinds
    from include.pipeline.maintain import maintain as maintain_kinds

    with open_kinds(AirflowSettings()) as kinds:
        apply = not (params or {}).get("dry_run")
        return maintain_kinds(kinds, apply=apply, progress=lambda kind, n: log.info("%s: %s", kind, f"{n:,}"))
