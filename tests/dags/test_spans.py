"""What an ingest run reads: what is new, or what was published in a span of time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunType
from hypothesis import given
from hypothesis import strategies as st

from dag_factories.ingest import from_xcom, published_span, to_xcom
from include.domain.batch import BatchMode, BatchRef
from include.errors import ConfigurationError

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = 1_772_366_400_000
NOTHING: dict[str, Any] = {"from": None, "to": None}


@pytest.mark.parametrize("run_type", [each for each in DagRunType if each is not DagRunType.BACKFILL])
@pytest.mark.parametrize("params", [{}, NOTHING])
def test_a_live_run_has_no_span(run_type: DagRunType, params: dict[str, Any]) -> None:
    """Whatever starts it, a run without from and to reads what is new; its interval means nothing."""
    assert published_span(run_type, params, NOON, NOON + HOUR) is None
    assert published_span(run_type, params, None, None) is None


def test_a_backfill_reads_its_interval() -> None:
    """The hours of a backfill are times of publishing, from the first moment up to, not with, the last."""
    # As a task sees it: an enum of the SDK's, whose str() is not its value.
    assert published_span(DagRunType.BACKFILL, NOTHING, NOON, NOON + HOUR) == (NOON_MS, NOON_MS + 3_600_000)


def test_a_backfill_does_not_heed_parameters() -> None:
    """Every run of a backfill gets the same parameters: they would make all of them read the same."""
    asked = {"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"}
    assert published_span("backfill", asked, NOON, NOON + HOUR) == (NOON_MS, NOON_MS + 3_600_000)


def test_neighbouring_hours_meet() -> None:
    """The end of an hour is the beginning of the next: no message is in none or in both."""
    spans = [published_span("backfill", {}, NOON + n * HOUR, NOON + (n + 1) * HOUR) for n in range(30)]
    ends = [span[1] for span in spans if span]
    starts = [span[0] for span in spans if span]
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
    """Either may be left out; offsets and fractions of a second count; the interval does not."""
    assert published_span("manual", {"from": first, "to": last}, NOON - HOUR, NOON) == span


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize("wrong", ["yesterday", "", "2026-03-01", "2026-03-01T12:00:00", "2026-13-01T12:00:00Z"])
def test_a_time_that_is_none_is_named(name: str, wrong: str) -> None:
    """Without an offset a time would mean another moment on every worker; the error names parameter and form."""
    with pytest.raises(ConfigurationError, match=rf"^{name} is '{wrong}'.*2026-03-01T09:30:00Z"):
        published_span("manual", {**NOTHING, name: wrong}, None, None)


@given(
    st.integers(0, 2**41),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_a_moment_is_one_in_every_zone(at: int, zone: timezone) -> None:
    """In whatever zone a time is written, what is read is the same, to the millisecond."""
    written = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(zone).isoformat()
    assert published_span("manual", {"from": written}, None, None) == (at, 2**62)


REFS = st.builds(
    BatchRef,
    topic=st.text(min_size=1, max_size=5),
    shard=st.integers(0, 4095),
    start=st.integers(0, 2**53),
    end=st.integers(0, 2**53),
    mode=st.sampled_from(BatchMode),
)


@given(REFS)
def test_a_batch_travels_as_json(ref: BatchRef) -> None:
    """What Airflow hands from task to task is the same batch, mode and all."""
    assert from_xcom(json.loads(json.dumps(to_xcom(ref)))) == ref
