"""The timetable of the ingest DAGs: it schedules nothing by itself, but every hour can be backfilled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.timetables.base import DataInterval, TimeRestriction
from hypothesis import given, settings
from hypothesis import strategies as st
from pendulum import DateTime, instance

from replay_only import ReplayOnly

HOUR = timedelta(hours=1)
START = datetime(2010, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 3_000_000_000).map(lambda seconds: instance(START + timedelta(seconds=seconds)))


def backfill_intervals(first: datetime, last: datetime) -> list[tuple[datetime, datetime]]:
    """The intervals of a backfill from ``first`` to ``last``, requested one after another as Airflow does."""
    timetable = ReplayOnly("0 * * * *", timezone="UTC")
    restriction = TimeRestriction(instance(first), instance(last), catchup=True)
    intervals: list[tuple[datetime, datetime]] = []
    before: DataInterval | None = None
    while info := timetable.next_dagrun_info(last_automated_data_interval=before, restriction=restriction):
        before = info.data_interval
        assert before is not None
        intervals.append((before.start, before.end))
    return intervals


@settings(deadline=None)  # a busy machine is not a failure
@given(st.none() | MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS)
def test_the_scheduler_never_gets_a_run(
    last: DateTime | None, earliest: DateTime | None, latest: DateTime | None
) -> None:
    """With catch-up off, as in every ingest DAG, there is no next run, whatever ran before and whatever the limits."""
    timetable = ReplayOnly("0 * * * *", timezone="UTC")
    before = None if last is None else DataInterval(last, last + HOUR)
    restriction = TimeRestriction(earliest, latest, catchup=False)
    assert timetable.next_dagrun_info(last_automated_data_interval=before, restriction=restriction) is None


def test_a_backfill_gets_every_hour() -> None:
    """A backfill gets every hour from the first to the last exactly once, without gaps."""
    intervals = backfill_intervals(START, START + 47 * HOUR)
    assert intervals == [(START + n * HOUR, START + (n + 1) * HOUR) for n in range(48)]


def test_a_backfill_takes_full_hours_only() -> None:
    """A backfill that starts within an hour begins with the next full hour."""
    intervals = backfill_intervals(START + timedelta(minutes=20), START + 2 * HOUR)
    assert [start for start, _ in intervals] == [START + HOUR, START + 2 * HOUR]


def test_daylight_saving_time_has_no_effect() -> None:
    """The night when clocks change in Europe has as many hours as any other, because the timetable uses UTC."""
    night = datetime(2026, 3, 28, 22, tzinfo=UTC)
    intervals = backfill_intervals(night, night + 5 * HOUR)
    assert [end - start for start, end in intervals] == [HOUR] * 6


def test_it_survives_serialisation() -> None:
    """The timetable that the scheduler deserialises still schedules nothing and can still be backfilled."""
    restored = ReplayOnly.deserialize(ReplayOnly("0 * * * *", timezone="UTC").serialize())
    assert isinstance(restored, ReplayOnly)
    assert restored.summary == "replay only"
    assert restored.periodic
    restriction = TimeRestriction(instance(START), None, catchup=False)
    assert restored.next_dagrun_info(last_automated_data_interval=None, restriction=restriction) is None
