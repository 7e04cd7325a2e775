"""The inventory of a store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA
from include.domain.inventory import INVENTORY_SCHEMA, inventory_table

CHUNK = 1_000


class MemoryInventory:
    """``ports.Contents`` over the rows of a sink in memory (columns of EVENT_SCHEMA), which ``read_rows`` returns."""

    def __init__(self, read_rows: Callable[[], Iterable[Mapping[str, Any]]], *, is_full: bool, chunk: int = CHUNK):
        self._read_rows = read_rows
        self._is_full = is_full
        self._chunk = chunk

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        """Every event after ``after``, in order of event id."""
        return self._chunks(self._to_inventory, after)

    def read(self, keys: pa.Table) -> pa.Table:
        """The events with these keys."""
        return self._to_inventory(self._find(keys))

    def scan_contents(self, after: str = "") -> Iterator[pa.Table]:
        """The full contents after ``after``, in order of event id."""
        return self._chunks(_to_events, after)

    def read_contents(self, keys: pa.Table) -> pa.Table:
        """The full contents with these keys."""
        return _to_events(self._find(keys))

    def close(self) -> None:
        """Nothing to close."""

    def _chunks(self, convert: Callable[[list[Mapping[str, Any]]], pa.Table], after: str) -> Iterator[pa.Table]:
        rows = [row for row in self._read_rows() if row["event_id"] > after]
        rows.sort(key=lambda row: row["event_id"])
        for start in range(0, len(rows), self._chunk):
            yield convert(rows[start : start + self._chunk])

    def _find(self, keys: pa.Table) -> list[Mapping[str, Any]]:
        wanted = set(zip(keys["event_id"].to_pylist(), keys["user_id"].to_pylist(), strict=True))
        return [row for row in self._read_rows() if (row["event_id"], row["user_id"]) in wanted]

    def _to_inventory(self, rows: list[Mapping[str, Any]]) -> pa.Table:
        names = INVENTORY_SCHEMA.names[:5]
        has = ("text", "item_id") if self._is_full else ()
        return inventory_table((*(row[n] for n in names), *(row[n] is not None for n in has)) for row in rows)


def _to_events(rows: list[Mapping[str, Any]]) -> pa.Table:
    fields = {"offset": 0, "published_at": 0}
    names = EVENT_SCHEMA.names
    return pa.Table.from_pylist(
        [{n: {**row, **fields, "replaces": True}[n] for n in names} for row in rows], EVENT_SCHEMA
    )
