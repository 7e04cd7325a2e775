"""Which messages a replay reads: those of its parameters, or those published in a backfill's interval."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from include.errors import ConfigurationError
from include.pipeline.replay import Bound


def replay_bounds(
    run_type: str, params: Mapping[str, Any], interval_start: datetime | None, interval_end: datetime | None
) -> tuple[Bound, Bound | None]:
    """Where a replay begins and ends; without an end, with the newest message there is."""
    interval = backfill_interval(run_type, interval_start, interval_end)
    if interval is not None:
        return Bound(published_at=interval[0]), Bound(published_at=interval[1])
    start, end = _parse_bound("from", params.get("from")), _parse_bound("to", params.get("to"))
    if start is None:
        raise ConfigurationError("from is missing: set it to a time, like 2026-03-01T09:30:00Z, or to an offset")
    return start, end


def replay_shards(chosen: object, shards: int) -> list[int]:
    """The shards of the parameter ``shards``; all of them if it is empty."""
    numbers = chosen if isinstance(chosen, list) else []
    wrong = [number for number in numbers if not isinstance(number, int) or not 0 <= number < shards]
    if wrong:
        raise ConfigurationError(f"shards has {wrong[0]!r}; use 0 to {shards - 1}, as MILLRACE_SHARDS is {shards}")
    return sorted(set(numbers)) or list(range(shards))


def backfill_interval(
    run_type: str, interval_start: datetime | None, interval_end: datetime | None
) -> tuple[int, int] | None:
    """``[start, end)`` of a backfill run in ms since 1970, None for any other run.

    Manual and asset-triggered runs have an interval too, but only a backfill's means something.
    """
    if run_type != "backfill" or interval_start is None or interval_end is None:
        return None
    return _to_ms(interval_start), _to_ms(interval_end)


def _parse_bound(name: str, value: object) -> Bound | None:
    if value is None:
        return None
    text = str(value)
    if text.isascii() and text.isdigit():
        return Bound(offset=int(text))
    return Bound(published_at=_to_ms(_parse_time(name, text)))


def _parse_time(name: str, text: str) -> datetime:
    """Airflow accepts any text, and a time without an offset would depend on the worker's clock."""
    try:
        time: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ConfigurationError(
            f"{name} is {text!r}; it must be a time with a zone, like 2026-03-01T09:30:00Z, or an offset, like 120000"
        )
    return time


def _to_ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
