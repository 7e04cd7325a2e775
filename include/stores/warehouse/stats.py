"""Read-only counts for people and checks: what was ingested, what is stored, what is still pending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL


@dataclass(frozen=True)
class LedgerTotals:
    """Totals over every committed live batch: delivered = valid + the sum of dead_letters."""

    delivered: int
    valid: int
    batches: int
    dead_letters: Mapping[str, int]


@dataclass(frozen=True)
class LastBatch:
    """The last batch that was claimed for a shard; ``committed_at`` is None while it is in progress."""

    shard: int
    start: int
    end: int
    mode: str
    claimed_at: datetime
    committed_at: datetime | None
    delivered: int


@dataclass(frozen=True)
class BatchWarnings:
    """What validation found unusual about one whole batch."""

    shard: int
    start: int
    end: int
    warnings: Sequence[str]


class WarehouseStats:
    """``Warehouse.stats``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read_totals(self, topic: str) -> LedgerTotals:
        where = {"topic": topic}
        delivered, valid, batches = self._database.query(SQL["totals"], where)[0]
        dead_letters = {reason: int(n) for reason, n in self._database.query(SQL["dead_letter_totals"], where)}
        return LedgerTotals(int(delivered), int(valid), int(batches), dead_letters)

    def read_warnings(self, topic: str) -> Sequence[BatchWarnings]:
        return [BatchWarnings(*row) for row in self._database.query(SQL["warnings"], {"topic": topic})]

    def read_positions(self, topic: str) -> Mapping[int, int]:
        """The end of the last committed live batch of each shard that has one."""
        return dict(self._database.query(SQL["positions"], {"topic": topic}))

    def read_last_batches(self, topic: str) -> Sequence[LastBatch]:
        return [LastBatch(*row) for row in self._database.query(SQL["last_batches"], {"topic": topic})]

    def count_pending(self) -> tuple[int, int]:
        """Returns the number of touched hours and of changed users that are still to be processed."""
        hours, users = self._database.query(SQL["pending"])[0]
        return int(hours), int(users)

    def count_events(self) -> int:
        """Returns the number of distinct events stored."""
        return int(self._database.query(SQL["event_count"])[0][0])

    def count_aggregate_differences(self) -> int:
        """Returns the number of rows in engagement_hourly that differ from a recount of every event."""
        return int(self._database.query(SQL["aggregate_difference"])[0][0])
