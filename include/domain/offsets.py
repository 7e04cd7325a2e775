"""Offsets of one partition: what it holds, and how far the group is behind.

Imports nothing heavy, because the triggerer and every process that loads the plugins import it.
"""

from __future__ import annotations

from typing import NamedTuple


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
