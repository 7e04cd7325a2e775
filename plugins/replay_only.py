"""A timetable that never schedules a run by itself, but makes the hours of a DAG available to backfills."""

from __future__ import annotations

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable


class ReplayOnly(CronDataIntervalTimetable):
    """Airflow backfills only DAGs with a timetable; the scheduler asks it with catchup off and gets no run."""

    @property
    def summary(self) -> str:
        return "replay only"

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        if not restriction.catchup:
            return None
        return super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
