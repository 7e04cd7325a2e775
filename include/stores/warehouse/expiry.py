"""Retention of events: the cut, and the warehouse's part of deleting what was published before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL

#: Events in one transaction.
SLICE = 10_000
_EXPIRED = pa.schema([EVENT_SCHEMA.field(name) for name in ("event_id", "user_id", "version", "digest")])


class WarehouseExpiry:
    """``ports.Expiry`` on the table of events. Days are UTC, by the server's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def pause_claims(self) -> Iterator[None]:
        # A session lock: it ends with this process, however that ends.
        self._database.query(SQL["pause_claims"])
        try:
            yield
        finally:
            self._database.query(SQL["resume_claims"])

    def count_running(self) -> int:
        running: int = self._database.query(SQL["count_running_batches"])[0][0]
        return running

    def raise_cut(self, days: int) -> None:
        self._database.execute(SQL["raise_cut"], {"days": days})

    def date_undated(self) -> int:
        return self._database.execute(SQL["date_undated_events"], {"limit": SLICE})

    def count(self, days: int) -> int:
        expired: int = self._database.query(SQL["count_expired"], {"days": days})[0][0]
        return expired

    def read_slice(self) -> pa.Table:
        rows = self._database.query(SQL["expired_events"], {"limit": SLICE})
        return pa.Table.from_pylist([dict(zip(_EXPIRED.names, row, strict=True)) for row in rows], _EXPIRED)

    def delete(self, rows: pa.Table) -> int:
        keys = {name: rows[name].to_pylist() for name in ("event_id", "user_id")}
        with self._database.transaction() as transaction:
            transaction.execute(SQL["create_expired"])
            deleted = transaction.execute(SQL["delete_expired"], keys)
            transaction.execute(SQL["archive_engagement"])
            transaction.execute(SQL["mark_users_of_expired"])
        return deleted

    def find(self, keys: Sequence[tuple[str, str]]) -> set[str]:
        parameters = {"event_id": [event_id for event_id, _ in keys], "user_id": [user_id for _, user_id in keys]}
        return {event_id for (event_id,) in self._database.query(SQL["find_expired"], parameters)}
