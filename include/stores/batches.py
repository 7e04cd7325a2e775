"""Which batch comes next: one rule for every ledger."""

from __future__ import annotations

from include.domain.batch import BatchRef
from include.errors import OffsetsGoneError
from include.ports import Offsets


def next_batch(topic: str, shard: int, last_end: int | None, offsets: Offsets, limit: int) -> BatchRef | None:
    """The live batch after ``last_end``; None when the topic holds nothing more.

    Raises ``OffsetsGoneError`` when the topic no longer has, or never had, what comes next.
    """
    start = offsets.low if last_end is None else last_end
    if start < offsets.low:
        raise OffsetsGoneError(
            f"offsets {start} to {offsets.low} of {topic}[{shard}] were removed by retention before they were read; "
            "raise the topic's retention.ms"
        )
    if start > offsets.high:
        raise OffsetsGoneError(
            f"the ledger stands at {start} of {topic}[{shard}], which ends at {offsets.high}: the topic was made anew; "
            "give it another name, or start with an empty warehouse"
        )
    end = min(offsets.high, start + limit)
    return BatchRef(topic, shard, start, end) if end > start else None
