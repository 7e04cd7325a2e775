"""The DAG that counts engagement by hour, item, campaign and kind."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronDataIntervalTimetable, task

from dag_factories.assets import COMMITTED, ENGAGEMENT
from dag_factories.connections import AirflowSettings
from dag_factories.policy import DEFAULT_ARGS, START
from dag_factories.replay_range import backfill_interval
from include import bootstrap
from include.errors import hide_values
from include.pipeline.aggregate import aggregate as aggregate_hours

_DOC = """
Recounts the engagement of every hour whose events changed: after each committed batch, every full hour, and when
triggered by hand. A backfill recounts its own hours, changed or not. Recounting an hour twice gives the same rows.
"""


def aggregate_dag() -> DAG:
    """The DAG ``aggregate_engagement``."""
    hourly = CronDataIntervalTimetable("0 * * * *", timezone="UTC")
    with DAG(
        dag_id="aggregate_engagement",
        description="Recounts engagement by hour, item, campaign and kind",
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
@hide_values()
def aggregate(
    dag_run: Any = None, data_interval_start: datetime | None = None, data_interval_end: datetime | None = None
) -> dict[str, int]:
    """Recount the touched hours; in a backfill, the hours of its interval."""
    interval = backfill_interval(dag_run.run_type, data_interval_start, data_interval_end)
    with bootstrap.open_aggregate_port(AirflowSettings()) as engagement:
        return aggregate_hours(engagement, interval)
