"""Lag and last batch of each shard, as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from include.ports import Offsets
from include.stores.warehouse.inventory import LastBatch
from stack.shards import statuses, table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batch(shard: int, committed: datetime | None) -> LastBatch:
    return LastBatch(shard, 0, 50_000, "live", NOW - timedelta(seconds=90), committed, 49_998)


def test_lag_is_what_the_ledger_has_not_reached() -> None:
    """From the last commit to the topic's end; a shard without one lags from the first offset that is still there."""
    rows = statuses({1: Offsets(40, 100), 0: Offsets(0, 70)}, {0: 60}, {0: batch(0, NOW)})
    assert [(row.shard, row.lag) for row in rows] == [(0, 10), (1, 60)]


def test_lag_is_never_below_zero() -> None:
    """A topic that was made anew ends before the ledger's position: that is no negative lag."""
    (row,) = statuses({0: Offsets(0, 5)}, {0: 60}, {})
    assert row.lag == 0


def test_the_table_tells_a_batch_under_way_from_a_committed_one() -> None:
    """Each shard has a line with its last batch: when it was committed, or since when it is under way."""
    last = {0: batch(0, NOW - timedelta(minutes=5)), 1: batch(1, None)}
    lines = table(statuses(dict.fromkeys(range(3), Offsets(0, 50_000)), {0: 50_000}, last), NOW).splitlines()
    assert len(lines) == 4
    assert "live 0 to 50,000, 49,998 messages, committed 5 min ago" in lines[1]
    assert "claimed 90 s ago and under way" in lines[2]
    assert "none yet" in lines[3]
