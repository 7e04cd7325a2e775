"""The inventory of the collection of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.int64 import Int64
from pymongo.cursor import Cursor

from include.domain.batch import Record, events_table
from include.domain.event import Event, encode_unknown
from include.domain.inventory import inventory_table
from include.domain.precedence import mark_replacing
from include.settings import MongoSettings
from include.stores.mongo import Document, events_collection, translate_errors, unescape_names

CHUNK = 5_000
#: For one chunk of a scan. The first waits for the server's sort where ``_id`` has no ordered index (the local server).
SCAN_SECONDS = 600
_FIELDS = ("user_id", "occurred_at", "version", "digest", "text", "item_id")
_KEYS_PER_QUERY = 200


class MongoInventory:
    """``ports.Contents`` on the collection; reads from the primary, which knows every acknowledged write."""

    def __init__(self, settings: MongoSettings) -> None:
        options: CodecOptions[Document] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
        self._events = events_collection(settings).with_options(codec_options=options)

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        """Every event after ``after``, in order of event id."""
        # A text is transferred only to see that there is one: not every server can tell so in a projection.
        return self._scan(after, _FIELDS, lambda documents: inventory_table(map(_to_row, documents)))

    def read(self, keys: pa.Table) -> pa.Table:
        """The events with these keys."""
        return inventory_table(map(_to_row, self._find(keys, _FIELDS)))

    def scan_contents(self, after: str = "") -> Iterator[pa.Table]:
        """The full contents after ``after``, in order of event id."""
        return self._scan(after, None, to_events)

    def read_contents(self, keys: pa.Table) -> pa.Table:
        """The full contents with these keys."""
        return to_events(self._find(keys, None))

    def close(self) -> None:
        """Close the connections. Do not use the inventory after closing it."""
        self._events.database.client.close()

    def _scan(
        self, after: str, fields: Sequence[str] | None, convert: Callable[[Iterator[Document]], pa.Table]
    ) -> Iterator[pa.Table]:
        with translate_errors():
            query = {"_id": {"$gt": after}} if after else {}
            with self._events.find(query, fields, sort=[("_id", 1)], batch_size=CHUNK) as cursor:
                while (chunk := _next_chunk(cursor, convert)).num_rows:
                    yield chunk

    def _find(self, keys: pa.Table, fields: Sequence[str] | None) -> Iterator[Document]:
        with translate_errors():
            for start in range(0, keys.num_rows, _KEYS_PER_QUERY):
                chunk = keys.slice(start, _KEYS_PER_QUERY)
                ids, users = chunk["event_id"].to_pylist(), set(chunk["user_id"].to_pylist())
                # user_id is the shard key: with it only the shards of these users are asked.
                yield from self._events.find({"_id": {"$in": ids}, "user_id": {"$in": sorted(users)}}, fields)


def _next_chunk(cursor: Cursor[Document], convert: Callable[[Iterator[Document]], pa.Table]) -> pa.Table:
    with pymongo.timeout(SCAN_SECONDS):
        return convert(islice(cursor, CHUNK))


def _to_row(document: Document) -> tuple[object, ...]:
    time, version = int(document["occurred_at"]), int(document["version"])
    has = ("text" in document, "item_id" in document)
    return (document["_id"], document["user_id"], time, version, document["digest"], *has)


def to_events(documents: Iterator[Document]) -> pa.Table:
    """EVENT_SCHEMA from documents, the inverse of ``stores.mongo.to_documents``; ``replaces`` is true.

    ``offset`` and ``published_at`` are 0: MongoDB does not have them.
    """
    events = events_table((_NO_RECORD, _to_event(document)) for document in documents)
    return mark_replacing(events, np.ones(events.num_rows, dtype=bool))


def _to_event(document: Document) -> Event:
    extra = document.get("extra")
    return Event(
        user_id=document["user_id"],
        message_id=document["message_id"],
        kind=document["kind"],
        occurred_at=int(document["occurred_at"]),
        text=document.get("text"),
        item_id=document.get("item_id"),
        campaign_id=document.get("campaign_id"),
        value=document.get("value"),
        version=int(document["version"]),
        extra=None if extra is None else encode_unknown(unescape_names(_plain(extra))),
    )


def _plain(value: Any) -> Any:
    """``value`` with BSON's 64-bit integers as ordinary ones."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return int(value) if isinstance(value, Int64) else value


_NO_RECORD = Record(shard=0, offset=0, published_at=0, key=None, value=None)
