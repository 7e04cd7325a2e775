"""What a replay reads: the messages of its parameters, or those published in a backfill's interval."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunType
from hypothesis import given
from hypothesis import strategies as st

from dag_factories.replay_range import replay_bounds, replay_shards
from dag_factories.xcom import from_xcom, to_xcom
from include.domain.batch import BatchMode, BatchRef
from include.errors import ConfigurationError
from include.pipeline.replay import Bound

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = 1_772_366_400_000
NO_PARAMS: dict[str, Any] = {"from": None, "to": None}


def at(time_ms: int) -> Bound:
    return Bound(published_at=time_ms)


def test_a_backfill_reads_its_interval() -> None:
    """The interval of a backfill is a range of publish times; its end is exclusive."""
    # As a task sees it: an SDK enum whose str() is not its value.
    expected = Bound(published_at=NOON_MS), Bound(published_at=NOON_MS + 3_600_000)
    assert replay_bounds(DagRunType.BACKFILL, NO_PARAMS, NOON, NOON + HOUR) == expected


def test_a_backfill_ignores_parameters() -> None:
    """Every run of a backfill gets the same parameters, which would make all of them read the same range."""
    params = {"from": "2020-01-01T00:00:00Z", "to": 7}
    expected = Bound(published_at=NOON_MS), Bound(published_at=NOON_MS + 3_600_000)
    assert replay_bounds("backfill", params, NOON, NOON + HOUR) == expected


def test_consecutive_hours_are_adjacent() -> None:
    """Every hour ends where the next begins: no message is skipped or read twice."""
    bounds = [replay_bounds("backfill", {}, NOON + n * HOUR, NOON + (n + 1) * HOUR) for n in range(30)]
    assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]


@pytest.mark.parametrize(
    ("first", "last", "bounds"),
    [
        ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00+00:00", (at(NOON_MS), at(NOON_MS + 3_600_000))),
        ("2026-03-01T13:00:00+01:00", None, (at(NOON_MS), None)),
        (0, "2026-03-01T12:00:00.25Z", (Bound(offset=0), at(NOON_MS + 250))),
        ("120", 500, (Bound(offset=120), Bound(offset=500))),
    ],
)
def test_a_manual_run_reads_from_and_to(first: Any, last: Any, bounds: tuple[Bound, Bound | None]) -> None:
    """Each is a time or an offset, as a number or as text; the interval is ignored."""
    assert replay_bounds("manual", {"from": first, "to": last}, NOON - HOUR, NOON) == bounds


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize("wrong", ["yesterday", "", "2026-03-01", "2026-03-01T12:00:00", "2026-13-01T12:00:00Z", "-1"])
def test_an_invalid_bound_is_named(name: str, wrong: str) -> None:
    """A time without a zone would depend on the worker's clock; the error names the parameter and the format."""
    with pytest.raises(ConfigurationError, match=rf"^{name} is '{wrong}'.*2026-03-01T09:30:00Z, or an offset"):
        replay_bounds("manual", {"from": 0, name: wrong}, None, None)


@pytest.mark.parametrize("run_type", [each for each in DagRunType if each is not DagRunType.BACKFILL])
@pytest.mark.parametrize("params", [{}, NO_PARAMS, {"to": 5}])
def test_a_replay_needs_a_beginning(run_type: DagRunType, params: dict[str, Any]) -> None:
    """A run that was triggered without parameters does not replay the whole topic by accident."""
    with pytest.raises(ConfigurationError, match="from is missing: set it to a time"):
        replay_bounds(run_type, params, NOON, NOON + HOUR)


@given(
    st.integers(0, 2**41),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_time_zones_do_not_matter(time: int, zone: timezone) -> None:
    """A time means the same in whatever time zone it is written, to the millisecond."""
    written = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time)).astimezone(zone).isoformat()
    assert replay_bounds("manual", {"from": written}, None, None) == (at(time), None)


def test_shards_are_all_or_those_chosen() -> None:
    """In order and once each; a number that no shard has is named."""
    assert replay_shards([], 3) == replay_shards(None, 3) == [0, 1, 2]
    assert replay_shards([2, 0, 2], 3) == [0, 2]
    for wrong in (3, -1, "a"):
        with pytest.raises(ConfigurationError, match=rf"shards has {wrong!r}; use 0 to 2, as MILLRACE_SHARDS is 3"):
            replay_shards([0, wrong], 3)


REFS = st.builds(
    BatchRef,
    topic=st.text(min_size=1, max_size=5),
    shard=st.integers(0, 4095),
    start=st.integers(0, 2**53),
    end=st.integers(0, 2**53),
    mode=st.sampled_from(BatchMode),
)


@given(REFS)
def test_a_batch_survives_xcom(ref: BatchRef) -> None:
    """A task receives the same batch that the task before returned, including its mode."""
    assert from_xcom(json.loads(json.dumps(to_xcom(ref))), BatchRef) == ref
