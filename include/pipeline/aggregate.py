"""aggregate: recount the engagement of changed hours from the stored events."""

from __future__ import annotations

from itertools import batched

from include.ports import Engagement

#: A backlog may touch years of hours: recounted in one statement, they could exceed its timeout, in every run again.
HOURS_PER_SLICE = 50


def aggregate(engagement: Engagement, interval_ms: tuple[int, int] | None) -> dict[str, int]:
    """Recount the hours of ``[start, end)`` (ms since 1970), or every touched hour if there is no interval."""
    return aggregate_touched(engagement) if interval_ms is None else aggregate_between(engagement, *interval_ms)


def aggregate_touched(engagement: Engagement) -> dict[str, int]:
    """Recount every touched hour, in slices. An hour that is touched again in the meantime stays touched."""
    marks = engagement.read_touched_hours()
    rows = 0
    for hours in batched(marks, HOURS_PER_SLICE):
        rows += engagement.recount([mark.key for mark in hours])
        engagement.clear_hours(hours)
    return {"hours": len(marks), "rows": rows}


def aggregate_between(engagement: Engagement, start_ms: int, end_ms: int) -> dict[str, int]:
    """Recount the hours of ``[start, end)``, touched or not; their marks stay."""
    return {"rows": engagement.recount_between(start_ms, end_ms)}
