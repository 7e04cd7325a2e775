"""Offsets of one partition: what it holds, and how far the group is behind.

Imports nothing heavy, because the triggerer and every process that loads the plugins import it.
"""

from __future__ import annotations

from typing import NamedTuple


class Offsets(NamedTuple):
    """``[low, high)``: the offsets that a partition holds."""

    low: int
    high: int


class TopicDescription(NamedTuple):
    """A topic's id, which is new when it is deleted and created again, and its number of partitions."""

    topic_id: str
    partitions: int


class PartitionLag(NamedTuple):
    """The ledger's position (None before the first commit) and ``[low, high)``, which the partition holds."""

    committed: int | None
    low: int
    high: int

    @property
    def start(self) -> int:
        """The first offset that is not committed yet."""
        return self.low if self.committed is None else self.committed
