"""How far each shard of the local stack is: its lag, and the batch that was claimed last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from include import bootstrap
from include.errors import MillraceError
from include.ports import Offsets
from include.settings import Settings
from include.stores.warehouse.inventory import LastBatch


@dataclass(frozen=True)
class ShardStatus:
    """One shard now. ``position`` is where the ledger stands, ``end`` where the topic does."""

    shard: int
    position: int
    end: int
    last: LastBatch | None

    @property
    def lag(self) -> int:
        """How many offsets are not committed yet."""
        return max(0, self.end - self.position)


def shard_statuses(settings: Settings) -> list[ShardStatus]:
    """One row a shard. Raises ``TransientError`` when Kafka or the warehouse does not answer."""
    with bootstrap.opened(bootstrap.source(settings.kafka), bootstrap.warehouse(settings.warehouse)) as (topic, house):
        # The ledger first: what is read after it can only be newer, so no lag is below zero.
        positions = house.inventory.positions(settings.kafka.topic)
        last = {batch.shard: batch for batch in house.inventory.last_batches(settings.kafka.topic)}
        ends = {shard: topic.offsets(shard) for shard in range(settings.pipeline.shards)}
    return statuses(ends, positions, last)


def statuses(
    ends: Mapping[int, Offsets], positions: Mapping[int, int], last: Mapping[int, LastBatch]
) -> list[ShardStatus]:
    """A shard without a committed batch stands at the first offset that the topic holds."""
    return [ShardStatus(s, positions.get(s, held.low), held.high, last.get(s)) for s, held in sorted(ends.items())]


def shard_table(settings: Settings, now: datetime | None = None) -> str:
    """The shards for a person, or a line that says why they are not known."""
    try:
        return table(shard_statuses(settings), now or datetime.now(UTC))
    except MillraceError as error:
        return f"lag and batches are not known: {error}"


def table(rows: Iterable[ShardStatus], now: datetime) -> str:
    """One line a shard."""
    lines = [f"{'shard':<14} {'lag':>9} {'committed':>11} {'end':>11}  last batch"]
    lines += [
        f"{row.shard:<14} {row.lag:>9,} {row.position:>11,} {row.end:>11,}  {_last(row.last, now)}" for row in rows
    ]
    return "\n".join(lines)


def _last(batch: LastBatch | None, now: datetime) -> str:
    if batch is None:
        return "none yet"
    span = f"{batch.mode} {batch.start:,} to {batch.end:,}"
    if batch.committed_at is None:
        return f"{span}, claimed {_ago(batch.claimed_at, now)} and under way"
    return f"{span}, {batch.delivered:,} messages, committed {_ago(batch.committed_at, now)}"


def _ago(moment: datetime, now: datetime) -> str:
    seconds = max(0, int((now - moment).total_seconds()))
    minutes, hours = seconds // 60, seconds // 3600
    if minutes >= 120:
        return f"{hours} h ago"
    return f"{minutes} min ago" if seconds >= 120 else f"{seconds} s ago"
