"""A store's refusal of an event: what the validation accepts and the store does not, however often it is asked."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA

_KEY = ["event_id", "user_id", "version", "digest"]


class Refusal(msgspec.Struct, frozen=True):
    """One content that one store refused. Other contents of the same event are not concerned."""

    event_id: str
    user_id: str
    version: int
    digest: str
    store: str


def refusals_of(events: pa.Table, store: str) -> list[Refusal]:
    """A refusal of every event, which has EVENT_SCHEMA."""
    return [Refusal(**row, store=store) for row in events.select(_KEY).to_pylist()]


def refused_keys(refusals: Collection[Refusal]) -> pa.Table:
    """The rows that ``Sink.delete`` takes: (event_id, user_id, version, digest)."""
    schema = pa.schema([EVENT_SCHEMA.field(name) for name in _KEY])
    return pa.Table.from_pylist([msgspec.structs.asdict(refusal) for refusal in refusals], schema)
