"""Engagement by hour, item, campaign and kind: always recounted from the events, never incremented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import batched

from include.domain.mark import Mark
from include.domain.ranking import DEFAULT_KIND_WEIGHT, KIND_WEIGHTS, MAX_HALF_LIVES
from include.stores.postgres import Database, Transaction
from include.stores.warehouse.schema import SQL

#: A backfill may cover years. Each transaction has to end before the statement timeout.
_HOURS_PER_TRANSACTION = 50

#: The parameters of statements that weigh kinds of engagement and decay them.
WEIGHTS: Mapping[str, object] = {
    "max_half_lives": MAX_HALF_LIVES,
    "default": DEFAULT_KIND_WEIGHT,
    "kinds": list(KIND_WEIGHTS),
    "weights": list(KIND_WEIGHTS.values()),
}


class WarehouseEngagement:
    """``ports.Engagement`` in engagement_hourly."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read_touched_hours(self) -> Sequence[Mark]:
        return [Mark(hour.isoformat(), seq) for hour, seq in self._database.query(SQL["touched_hours"])]

    def recount(self, hours: Sequence[str]) -> int:
        with self._database.transaction() as transaction:
            return _recount(transaction, hours)

    def recount_between(self, start_ms: int, end_ms: int) -> int:
        between = {"start": to_datetime(start_ms), "end": to_datetime(end_ms)}
        hours = [hour.isoformat() for (hour,) in self._database.query(SQL["hours_between"], between)]
        return sum(self.recount(chunk) for chunk in batched(hours, _HOURS_PER_TRANSACTION))

    def clear_hours(self, marks: Sequence[Mark]) -> None:
        keys, seqs = [mark.key for mark in marks], [mark.seq for mark in marks]
        self._database.execute(SQL["clear_hours"], {"keys": keys, "seqs": seqs})

    def rank_popular(self, as_of_ms: int, half_life_days: float, limit: int) -> Sequence[tuple[str, float]]:
        parameters = {
            "as_of": to_datetime(as_of_ms),
            "half_life": half_life_days,
            "limit": limit,
            **WEIGHTS,
        }
        return [(item, float(score)) for item, score in self._database.query(SQL["popular"], parameters)]


def _recount(transaction: Transaction, hours: Sequence[str]) -> int:
    if not hours:
        return 0
    # Two concurrent recounts of one hour (a live run and a backfill) would insert the same rows twice.
    transaction.execute(SQL["lock_engagement"])
    transaction.execute(SQL["delete_hours"], {"hours": list(hours)})
    return transaction.execute(SQL["recount_hours"], {"hours": list(hours)})


def to_datetime(milliseconds: int) -> datetime:
    """From ms since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
