"""The progress of each shard of the local stack: its lag and its latest batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from include import bootstrap
from include.domain.offsets import Offsets
from include.errors import MillraceError
from include.settings import Settings
from include.stores.warehouse.stats import LastBatch


@dataclass(frozen=True)
class ShardStatus:
    """One shard now. ``position`` is the next offset in the ledger, ``end`` the end of the topic."""

    shard: int
    position: int
    end: int
    last: LastBatch | None

    @property
    def lag(self) -> int:
        """The number of offsets that are not committed yet."""
        return max(0, self.end - self.position)


def read_shard_statuses(settings: Settings) -> list[ShardStatus]:
    """One row per shard. Raises ``TransientError`` when Kafka or the warehouse does not respond."""
    with closing(bootstrap.open_source(settings)) as topic, closing(bootstrap.open_warehouse(settings)) as warehouse:
        # The ledger first: the topic can only have grown by the time it is read, so no lag is negative.
        positions = warehouse.stats.read_positions(settings.kafka.topic)
        last = {batch.shard: batch for batch in warehouse.stats.read_last_batches(settings.kafka.topic)}
        ends = {shard: topic.read_offsets(shard) for shard in range(settings.pipeline.shards)}
    return build_statuses(ends, positions, last)


def build_statuses(
    ends: Mapping[int, Offsets], positions: Mapping[int, int], last: Mapping[int, LastBatch]
) -> list[ShardStatus]:
    """One row per shard. Without a committed batch, a shard's position is the first offset in the topic."""
    return [
        ShardStatus(shard, positions.get(shard, offsets.low), offsets.high, last.get(shard))
        for shard, offsets in sorted(ends.items())
    ]


def format_shards(settings: Settings, now: datetime | None = None) -> str:
    """The shards as a table, or a line that says why they cannot be read."""
    try:
        return format_table(read_shard_statuses(settings), now or datetime.now(UTC))
    except MillraceError as error:
        return f"lag and batches are unknown: {error}"


def format_table(rows: Iterable[ShardStatus], now: datetime) -> str:
    """One line per shard."""
    lines = [f"{'shard':<14} {'lag':>9} {'committed':>11} {'end':>11}  last batch"]
    lines += [
        f"{row.shard:<14} {row.lag:>9,} {row.position:>11,} {row.end:>11,}  {_format_batch(row.last, now)}"
        for row in rows
    ]
    return "\n".join(lines)


def _format_batch(batch: LastBatch | None, now: datetime) -> str:
    if batch is None:
        return "none yet"
    span = f"{batch.mode} {batch.start:,} to {batch.end:,}"
    if batch.committed_at is None:
        return f"{span}, claimed {_format_age(batch.claimed_at, now)} and in progress"
    return f"{span}, {batch.delivered:,} messages, committed {_format_age(batch.committed_at, now)}"


def _format_age(moment: datetime, now: datetime) -> str:
    seconds = max(0, int((now - moment).total_seconds()))
    minutes, hours = seconds // 60, seconds // 3600
    if minutes >= 120:
        return f"{hours} h ago"
    return f"{minutes} min ago" if seconds >= 120 else f"{seconds} s ago"
