"""The DAG that compares the events of all stores."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

from dag_factories.connections import AirflowSettings
from dag_factories.policy import DEFAULT_ARGS, START
from include.errors import hide_values

_DOC = """
Compares the events of all stores every day, and fails if they differ. It changes nothing: `python -m include.cli
reconcile` shows the differences, and with `--repair` removes them.
"""


def reconcile_dag() -> DAG:
    """The DAG ``reconcile``."""
    with DAG(
        dag_id="reconcile",
        description="Compares the events of all stores",
        doc_md=_DOC,
        # Not at midnight and not at full hours, when other DAGs start.
        schedule=CronTriggerTimetable("40 3 * * *", timezone="UTC"),
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args={**DEFAULT_ARGS, "execution_timeout": timedelta(hours=6)},
        tags=["millrace", "reconcile"],
    ) as dag:
        reconcile()
    return dag


@task
@hide_values()
def reconcile() -> dict[str, int]:
    """Compare every event. Fails if a store lacks one, or has another content or an extra one."""
    from include.reconciliation import require_equal

    return require_equal(AirflowSettings())
