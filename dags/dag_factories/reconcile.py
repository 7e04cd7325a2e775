"""The DAG that compares the events of all stores."""

from __future__ import annotations

from airflow.sdk import DAG, task

from dag_factories.connections import AirflowSettings
from dag_factories.policy import daily_dag
from include.errors import hide_values

_DOC = """
Compares the events of all stores every day, and fails if they differ. It changes nothing: `python -m include.cli
reconcile` shows the differences, and with `--repair` removes them.
"""


def reconcile_dag() -> DAG:
    """The DAG ``reconcile``."""
    with daily_dag("reconcile", "40 3 * * *", "Compares the events of all stores", _DOC, "reconcile") as dag:
        reconcile()
    return dag


@task
@hide_values()
def reconcile() -> dict[str, int]:
    """Compare every event. Fails if a store lacks one, or has another content or an extra one."""
    from include.reconciliation import require_equal

    return require_equal(AirflowSettings())
