"""What an ingest run reads: new messages, or those published in a time range."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunType
from hypothesis import given
from hypothesis import strategies as st

from dag_factories.published_range import published_range
from dag_factories.xcom import from_xcom, to_xcom
from include.domain.batch import BatchMode, BatchRef
from include.errors import ConfigurationError

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = 1_772_366_400_000
NO_PARAMS: dict[str, Any] = {"from": None, "to": None}


@pytest.mark.parametrize("run_type", [each for each in DagRunType if each is not DagRunType.BACKFILL])
@pytest.mark.parametrize("params", [{}, NO_PARAMS])
def test_a_live_run_has_no_range(run_type: DagRunType, params: dict[str, Any]) -> None:
    """Whatever starts it, a run without from and to reads new messages; its interval is ignored."""
    assert published_range(run_type, params, NOON, NOON + HOUR) is None
    assert published_range(run_type, params, None, None) is None


def test_a_backfill_reads_its_interval() -> None:
    """The interval of a backfill is a range of publish times; its end is exclusive."""
    # As a task sees it: an SDK enum whose str() is not its value.
    assert published_range(DagRunType.BACKFILL, NO_PARAMS, NOON, NOON + HOUR) == (NOON_MS, NOON_MS + 3_600_000)


def test_a_backfill_ignores_parameters() -> None:
    """Every run of a backfill gets the same parameters, which would make all of them read the same range."""
    params = {"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"}
    assert published_range("backfill", params, NOON, NOON + HOUR) == (NOON_MS, NOON_MS + 3_600_000)


def test_consecutive_hours_are_adjacent() -> None:
    """Every hour ends where the next begins: no message is skipped or read twice."""
    ranges = [published_range("backfill", {}, NOON + n * HOUR, NOON + (n + 1) * HOUR) for n in range(30)]
    ends = [span[1] for span in ranges if span]
    starts = [span[0] for span in ranges if span]
    assert len(starts) == 30
    assert ends[:-1] == starts[1:]


@pytest.mark.parametrize(
    ("first", "last", "span"),
    [
        ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00+00:00", (NOON_MS, NOON_MS + 3_600_000)),
        ("2026-03-01T13:00:00+01:00", None, (NOON_MS, 2**62)),
        (None, "2026-03-01T12:00:00.25Z", (0, NOON_MS + 250)),
    ],
)
def test_a_manual_run_reads_from_and_to(first: str | None, last: str | None, span: tuple[int, int]) -> None:
    """Either may be omitted; offsets and fractions of a second count; the interval is ignored."""
    assert published_range("manual", {"from": first, "to": last}, NOON - HOUR, NOON) == span


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize("wrong", ["yesterday", "", "2026-03-01", "2026-03-01T12:00:00", "2026-13-01T12:00:00Z"])
def test_an_invalid_time_is_named(name: str, wrong: str) -> None:
    """A time without an offset would depend on the worker's clock; the error names the parameter and the format."""
    with pytest.raises(ConfigurationError, match=rf"^{name} is '{wrong}'.*2026-03-01T09:30:00Z"):
        published_range("manual", {**NO_PARAMS, name: wrong}, None, None)


@given(
    st.integers(0, 2**41),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_time_zones_do_not_matter(at: int, zone: timezone) -> None:
    """A time means the same in whatever time zone it is written, to the millisecond."""
    written = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(zone).isoformat()
    assert published_range("manual", {"from": written}, None, None) == (at, 2**62)


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
