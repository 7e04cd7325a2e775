"""The inventory of the table of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA
from include.domain.inventory import inventory_table
from include.settings import WarehouseSettings
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL
from include.stores.warehouse.warehouse import Warehouse

CHUNK = 5_000
_CONTENT = (
    "event_id", "user_id", "message_id", "kind", "occurred_at", "text", "item_id", "campaign_id", "value", "version",
    "digest", "extra", "text_hash",
)  # fmt: skip

type _Rows = list[tuple[Any, ...]]


class WarehouseInventory:
    """``ports.Contents`` on the table of events. A scan is a snapshot, in a connection of its own."""

    def __init__(self, settings: WarehouseSettings) -> None:
        self._settings = settings
        self._warehouse = Warehouse(settings)

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        """Every event after ``after``, in order of event id."""
        return self._scan(SQL["scan_events"], after, inventory_table)

    def read(self, keys: pa.Table) -> pa.Table:
        """The events with these keys."""
        return inventory_table(self._read(SQL["read_events"], keys))

    def scan_contents(self, after: str = "") -> Iterator[pa.Table]:
        """The full contents after ``after``, in order of event id."""
        return self._scan(SQL["scan_contents"], after, _to_events)

    def read_contents(self, keys: pa.Table) -> pa.Table:
        """The full contents with these keys."""
        return _to_events(self._read(SQL["read_contents"], keys))

    def close(self) -> None:
        """Close the connection."""
        self._warehouse.close()

    def _scan(self, statement: str, after: str, convert: Callable[[_Rows], pa.Table]) -> Iterator[pa.Table]:
        database = self._warehouse.database  # creates missing tables
        database = Database(self._settings.dsn)
        try:
            for rows in database.stream(statement, {"after": after}, CHUNK):
                yield convert(rows)
        finally:
            database.close()

    def _read(self, statement: str, keys: pa.Table) -> _Rows:
        parameters = {name: keys[name].to_pylist() for name in ("event_id", "user_id")}
        return self._warehouse.database.query(statement, parameters)


def _to_events(rows: _Rows) -> pa.Table:
    rest = {"offset": 0, "published_at": 0, "replaces": True}
    return pa.Table.from_pylist(
        [{**dict(zip(_CONTENT, row, strict=True)), **rest} for row in rows], schema=EVENT_SCHEMA
    )
