"""The timetable of the ingest DAGs: nothing by itself, every hour on demand."""

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


def hours(first: datetime, last: datetime) -> list[tuple[datetime, datetime]]:
    """The intervals of a backfill from ``first`` to ``last``, asked for one after the other as Airflow does."""
    timetable = ReplayOnly("0 * * * *", timezone="UTC")
    restriction = TimeRestriction(instance(first), instance(last), catchup=True)
    found: list[tuple[datetime, datetime]] = []
    before: DataInterval | None = None
    while info := timetable.next_dagrun_info(last_automated_data_interval=before, restriction=restriction):
        before = info.data_interval
        assert before is not None
        found.append((before.start, before.end))
    return found


@settings(deadline=None)  # a busy machine is no failure
@given(st.none() | MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS)
def test_the_scheduler_never_gets_a_run(
    last: DateTime | None, earliest: DateTime | None, latest: DateTime | None
) -> None:
    """Without catch-up, as our DAGs are, there is no next run, whatever ran before and whatever the limits."""
    timetable = ReplayOnly("0 * * * *", timezone="UTC")
    before = None if last is None else DataInterval(last, last + HOUR)
    restriction = TimeRestriction(earliest, latest, catchup=False)
    assert timetable.next_dagrun_info(last_automated_data_interval=before, restriction=restriction) is None


def test_a_backfill_gets_every_hour() -> None:
    """From the first hour to the last, each once, each meeting the next."""
    found = hours(START, START + 47 * HOUR)
    assert found == [(START + n * HOUR, START + (n + 1) * HOUR) for n in range(48)]


def test_a_backfill_takes_full_hours_only() -> None:
    """A first moment within an hour begins with the next one."""
    found = hours(START + timedelta(minutes=20), START + 2 * HOUR)
    assert [start for start, _ in found] == [START + HOUR, START + 2 * HOUR]


def test_hours_are_hours_where_clocks_change() -> None:
    """In the night of a change in Europe there are as many hours as ever: it counts in UTC."""
    night = datetime(2026, 3, 28, 22, tzinfo=UTC)
    found = hours(night, night + 5 * HOUR)
    assert [end - start for start, end in found] == [HOUR] * 6


def test_it_survives_serialisation() -> None:
    """What the dag-processor writes the scheduler reads: still one that schedules nothing and can be backfilled."""
    again = ReplayOnly.deserialize(ReplayOnly("0 * * * *", timezone="UTC").serialize())
    assert isinstance(again, ReplayOnly)
    assert again.summary == "replay only"
    assert again.periodic
    restriction = TimeRestriction(instance(START), None, catchup=False)
    assert again.next_dagrun_info(last_automated_data_interval=None, restriction=restriction) is None
