"""Counts for people and for checks: what the ledger has seen, what the tables hold, what is still to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL


@dataclass(frozen=True)
class LedgerTotals:
    """Over every committed live batch: delivered = valid + the sum of dead_letters."""

    delivered: int
    valid: int
    batches: int
    dead_letters: Mapping[str, int]


@dataclass(frozen=True)
class LastBatch:
    """The batch of a shard that was claimed last; ``committed_at`` is None while it is under way."""

    shard: int
    start: int
    end: int
    mode: str
    claimed_at: datetime
    committed_at: datetime | None
    delivered: int


@dataclass(frozen=True)
class BatchWarnings:
    """What validation found odd about one batch as a whole."""

    shard: int
    start: int
    end: int
    warnings: Sequence[str]


class Inventory:
    """Read-only counts of the warehouse."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def totals(self, topic: str) -> LedgerTotals:
        where = {"topic": topic}
        delivered, valid, batches = self._database.rows(SQL["totals"], where)[0]
        dead_letters = {reason: int(n) for reason, n in self._database.rows(SQL["dead_letter_totals"], where)}
        return LedgerTotals(int(delivered), int(valid), int(batches), dead_letters)

    def warnings(self, topic: str) -> Sequence[BatchWarnings]:
        return [BatchWarnings(*row) for row in self._database.rows(SQL["warnings"], {"topic": topic})]

    def positions(self, topic: str) -> Mapping[int, int]:
        """The end of the last committed live batch of each shard that has one."""
        return dict(self._database.rows(SQL["positions"], {"topic": topic}))

    def last_batches(self, topic: str) -> Sequence[LastBatch]:
        return [LastBatch(*row) for row in self._database.rows(SQL["last_batches"], {"topic": topic})]

    def pending(self) -> tuple[int, int]:
        """How many hours are touched and how many users changed, not yet taken in."""
        hours, users = self._database.rows(SQL["pending"])[0]
        return int(hours), int(users)

    def event_count(self) -> int:
        """How many distinct events the warehouse holds."""
        return int(self._database.rows(SQL["event_count"])[0][0])

    def aggregate_difference(self) -> int:
        """Rows of engagement_hourly that are missing, wrong or too many, against a recount of every event."""
        return int(self._database.rows(SQL["aggregate_difference"])[0][0])
