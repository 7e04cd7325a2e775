"""The lag and the latest batch of each shard, as a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from include.domain.offsets import Offsets
from include.stores.warehouse.stats import LastBatch
from stack.shards import build_statuses, format_table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batch(shard: int, committed: datetime | None) -> LastBatch:
    return LastBatch(shard, 0, 50_000, "live", NOW - timedelta(seconds=90), committed, 49_998)


def test_lag_is_the_distance_to_the_end_of_the_topic() -> None:
    """Lag counts from the last commit; without one, from the first offset that the topic still has."""
    rows = build_statuses({1: Offsets(40, 100), 0: Offsets(0, 70)}, {0: 60}, {0: batch(0, NOW)})
    assert [(row.shard, row.lag) for row in rows] == [(0, 10), (1, 60)]


def test_lag_is_never_negative() -> None:
    """A recreated topic may end before the ledger's position."""
    (row,) = build_statuses({0: Offsets(0, 5)}, {0: 60}, {})
    assert row.lag == 0


def test_the_table_distinguishes_batches_in_progress() -> None:
    """Each line says when the latest batch was committed, or since when it is in progress."""
    last = {0: batch(0, NOW - timedelta(minutes=5)), 1: batch(1, None)}
    lines = format_table(
        build_statuses(dict.fromkeys(range(3), Offsets(0, 50_000)), {0: 50_000}, last), NOW
    ).splitlines()
    assert len(lines) == 4
    assert "live 0 to 50,000, 49,998 messages, committed 5 min ago" in lines[1]
    assert "claimed 90 s ago and in progress" in lines[2]
    assert "none yet" in lines[3]
