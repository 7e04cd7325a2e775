"""The DAG that counts engagement by hour, item, campaign and kind."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronDataIntervalTimetable, task

from dag_factories import connections
from dag_factories.assets import COMMITTED, ENGAGEMENT
from dag_factories.policy import DEFAULT_ARGS, START

_DOC = """
Counts engagement again for every hour whose events changed: after each committed batch, every full hour, and when
triggered by hand. A backfill counts its own hours again, changed or not. Doing an hour twice gives the same rows.
"""


def aggregate_dag() -> DAG:
    """The DAG ``aggregate_engagement``."""
    hourly = CronDataIntervalTimetable("0 * * * *", timezone="UTC")
    with DAG(
        dag_id="aggregate_engagement",
        description="Engagement per hour, item, campaign and kind",
        doc_md=_DOC,
        schedule=AssetOrTimeSchedule(timetable=hourly, assets=[COMMITTED]),
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS,
        tags=["millrace", "aggregate"],
    ) as dag:
        aggregate()
    return dag


@task(outlets=[ENGAGEMENT])
def aggregate(
    dag_run: Any = None, data_interval_start: datetime | None = None, data_interval_end: datetime | None = None
) -> dict[str, int]:
    """Recount the touched hours; in a backfill, the hours of its interval."""
    from include import bootstrap
    from include.pipeline import aggregate as step

    with bootstrap.opened(bootstrap.warehouse(connections.warehouse())) as (warehouse,):
        if dag_run.run_type != "backfill" or data_interval_start is None or data_interval_end is None:
            return step.aggregate_touched(warehouse.engagement)
        start, end = data_interval_start.timestamp(), data_interval_end.timestamp()
        return step.aggregate_between(warehouse.engagement, round(start * 1000), round(end * 1000))
