"""What a store says about the events it has: the few columns that tell whether two stores agree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from include.domain.precedence import Precedence

#: One row per stored event; ``occurred_at`` is in ms since 1970. ``has_text`` and ``has_item`` are null in stores that
#: do not have the full contents.
INVENTORY_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("occurred_at", pa.int64(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("has_text", pa.bool_()),
        pa.field("has_item", pa.bool_()),
    ]
)


class InventoryRow(NamedTuple):
    """One row of an inventory without its ``event_id``."""

    user_id: str
    occurred_at: int
    version: int
    digest: str
    has_text: bool | None = None
    has_item: bool | None = None

    @property
    def precedence(self) -> Precedence:
        return Precedence(self.version, self.digest)

    @property
    def identity(self) -> tuple[str, int, int, str]:
        """What every store that has the event must agree on."""
        return self[:4]


def inventory_table(rows: Iterable[tuple[object, ...]]) -> pa.Table:
    """INVENTORY_SCHEMA from tuples in the order of its columns; the last two may be left out."""
    width = len(INVENTORY_SCHEMA)
    full = [(*row, *[None] * (width - len(row))) for row in rows]
    columns = list(zip(*full, strict=True)) or [()] * width
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, INVENTORY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=INVENTORY_SCHEMA)


def inventory_rows(table: pa.Table) -> Iterator[tuple[str, InventoryRow]]:
    """The rows of an inventory by event id, in order."""
    columns = [table.column(name).to_pylist() for name in INVENTORY_SCHEMA.names]
    for event_id, *values in zip(*columns, strict=True):
        yield event_id, InventoryRow(*values)


def hash_row(event_id: str, row: InventoryRow) -> int:
    """64 bits of a hash of the event in one store. Their sum mod 2^64 does not depend on the order of the events."""
    text = "\x00".join((event_id, *map(str, row.identity)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
