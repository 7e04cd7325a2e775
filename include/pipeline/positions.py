"""Compare the positions of each shard: what the group has committed, the ledger, and the partition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from include.domain.offsets import Offsets
from include.ports import Ledger, Source


@dataclass(frozen=True)
class ShardPosition:
    """The group's offset, the ledger's position and ``[low, high)`` of the partition; None before the first commit."""

    shard: int
    group: int | None
    ledger: int | None
    offsets: Offsets

    @property
    def problem(self) -> str | None:
        """What is wrong, None if nothing is. A group behind the ledger is right: the next run moves it."""
        ledger = self.offsets.low if self.ledger is None else self.ledger
        if self.group is not None and self.group > ledger:
            return f"the group has committed {self.group:,}, but the ledger only {ledger:,}"
        if ledger > self.offsets.high:
            return f"the ledger has committed {ledger:,}, but the partition ends at {self.offsets.high:,}"
        if self.ledger is not None and ledger < self.offsets.low:
            return f"the ledger has committed {ledger:,}, but the partition begins at {self.offsets.low:,}"
        return None


@dataclass(frozen=True)
class MessageCounts:
    """What the ledger counts in the topic's committed live batches."""

    delivered: int
    valid: int
    rejected: int

    @property
    def problem(self) -> str | None:
        """What is wrong, None if every message is accounted for."""
        if self.delivered == self.valid + self.rejected:
            return None
        return (
            f"the ledger counts {self.delivered:,} messages, but {self.valid:,} valid events and {self.rejected:,} dead"
            " letters"
        )


def read_positions(topic: str, shards: int, source: Source, ledger: Ledger) -> Iterator[ShardPosition]:
    """The position of each shard. The group is read before the ledger, which moves first."""
    for shard in range(shards):
        group = source.read_committed_offset(shard)
        position = ledger.read_position(topic, shard)
        yield ShardPosition(shard, group, position, source.read_offsets(shard))
