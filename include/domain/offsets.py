"""Offsets of one partition: what it holds, how far the group is behind, and which batch comes next."""

from __future__ import annotations

from typing import NamedTuple

from include.domain.batch import BatchRef
from include.errors import OffsetsGoneError


class Offsets(NamedTuple):
    """``[low, high)``: the offsets that a partition holds."""

    low: int
    high: int


class PartitionLag(NamedTuple):
    """The group's offset (None before its first commit) and ``[low, high)``, the offsets that the partition holds."""

    committed: int | None
    low: int
    high: int

    @property
    def start(self) -> int:
        """The first offset that is not committed yet."""
        return self.low if self.committed is None else self.committed


def next_batch(topic: str, shard: int, last_end: int | None, offsets: Offsets, limit: int) -> BatchRef | None:
    """The live batch after ``last_end``, at most ``limit`` offsets long; None when the topic holds nothing more.

    Raises ``OffsetsGoneError`` when the topic no longer has the next offset, or never had it.
    """
    start = offsets.low if last_end is None else last_end
    if start < offsets.low:
        raise OffsetsGoneError(
            f"offsets {start} to {offsets.low} of {topic}[{shard}] were removed by retention before they were read; "
            "raise the topic's retention.ms"
        )
    if start > offsets.high:
        raise OffsetsGoneError(
            f"the ledger's position in {topic}[{shard}] is {start}, but the partition ends at {offsets.high}: the "
            "topic was recreated; use another topic name, or start with an empty warehouse"
        )
    end = min(offsets.high, start + limit)
    return BatchRef(topic, shard, start, end) if end > start else None
