"""Which messages an ingest run reads: new ones, or those that were published in a given time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from include.errors import ConfigurationError

#: No message is published later; far below the limits of every driver.
_END_OF_TIME_MS = 2**62


def published_range(
    run_type: str, params: Mapping[str, Any], interval_start: datetime | None, interval_end: datetime | None
) -> tuple[int, int] | None:
    """The publish times ``[from, to)`` (ms since 1970) that a run replays; None for a live run."""
    interval = backfill_interval(run_type, interval_start, interval_end)
    start, end = params.get("from"), params.get("to")
    if interval is not None or (start is None and end is None):
        return interval
    start_ms = 0 if start is None else _to_ms(_parse_time("from", start))
    end_ms = _END_OF_TIME_MS if end is None else _to_ms(_parse_time("to", end))
    return start_ms, end_ms


def backfill_interval(
    run_type: str, interval_start: datetime | None, interval_end: datetime | None
) -> tuple[int, int] | None:
    """``[start, end)`` of a backfill run in ms since 1970, None for any other run.

    Manual and asset-triggered runs have an interval too, but only a backfill's means something.
    """
    if run_type != "backfill" or interval_start is None or interval_end is None:
        return None
    return _to_ms(interval_start), _to_ms(interval_end)


def _parse_time(name: str, text: str) -> datetime:
    """Airflow accepts any text as a date-time, and a time without an offset would depend on the worker's clock."""
    try:
        time: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ConfigurationError(f"{name} is {text!r}; it must be a time with an offset, like 2026-03-01T09:30:00Z")
    return time


def _to_ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
