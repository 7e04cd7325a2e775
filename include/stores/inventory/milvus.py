"""The inventory of the vectors of messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from include.domain.generation import Generation
from include.domain.inventory import inventory_table
from include.settings import MilvusSettings
from include.stores.milvus import (
    ROWS_PER_QUERY,
    STRONG,
    TIMEOUT_S,
    VectorCollection,
    any_of,
    connect,
    quote,
    translate_errors,
)

#: Event ids are hexadecimal digests, so the ids between two neighbours of these bounds are few and about equally many.
_DIGITS = 4
_FIELDS = ["id", "user_id", "occurred_at", "version", "digest"]


class MilvusInventory:
    """``ports.Inventory`` on the collection of one generation. A collection that does not exist has no events.

    Read in ranges of ids, each in one request and sorted here: a request with a limit is not sure to return the first
    ids of all segments, and without one it returns every row, however many.
    """

    def __init__(self, settings: MilvusSettings, generation: Generation) -> None:
        self._client = connect(settings)
        self._vectors = VectorCollection(
            settings.message_collection, generation.name, generation.dimension, settings.message_index, fields={}
        )
        self._exists: bool | None = None

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        """Every event after ``after``, in order of event id."""
        if not self._open():
            return
        with translate_errors():
            bounds = [after, *(bound for bound in _bounds(self._vectors.count(self._client)) if bound > after)]
        for lower, upper in zip(bounds, [*bounds[1:], ""], strict=True):
            condition = f"id {'>' if lower == after else '>='} {quote(lower)}"
            table = self._query(f"{condition} and id < {quote(upper)}" if upper else condition)
            if table.num_rows:
                yield table.sort_by("event_id")

    def read(self, keys: pa.Table) -> pa.Table:
        """The events with these keys."""
        if not self._open():
            return inventory_table([])
        ids = keys["event_id"].to_pylist()
        starts = range(0, len(ids), ROWS_PER_QUERY)
        return pa.concat_tables(
            [inventory_table([]), *(self._query(any_of("id", ids[start : start + ROWS_PER_QUERY])) for start in starts)]
        )

    def close(self) -> None:
        """Close the connection. Do not use the inventory after closing it."""
        self._client.close()

    def _open(self) -> bool:
        if self._exists is None:
            with translate_errors():
                self._exists = self._vectors.open(self._client)
        return self._exists

    def _query(self, condition: str) -> pa.Table:
        with translate_errors():
            rows: list[dict[str, Any]] = self._client.query(
                self._vectors.name,
                filter=condition,
                output_fields=_FIELDS,
                consistency_level=STRONG,
                timeout=TIMEOUT_S,
            )
        return inventory_table(tuple(row[name] for name in _FIELDS) for row in rows)


def _bounds(rows: int) -> list[str]:
    """Ids that divide so many events into ranges of about ROWS_PER_QUERY."""
    ranges = min(16**_DIGITS, rows // ROWS_PER_QUERY + 1)
    return [f"{16**_DIGITS * number // ranges:0{_DIGITS}x}" for number in range(1, ranges)]
