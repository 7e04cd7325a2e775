"""Reads the four stores of events with their plain drivers: every event as the fields that the store has of it.

Every read sees all acknowledged writes: from the primary, the leader, or with strong consistency.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import batched, product
from typing import Any, NamedTuple

import neo4j
import numpy as np
import psycopg2
import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from pymilvus import MilvusClient

from include.settings import MilvusSettings, MongoSettings, Neo4jSettings, Settings

CHUNK = 2_000
#: Rows to read at once; Milvus returns at most 16,384.
MILVUS_ROWS = 8_000
_MILVUS_TIMEOUT_S = 60
_HEX = "0123456789abcdef"


class StoredEvent(NamedTuple):
    """One event of a store, by its key there; ``vector`` only in Milvus."""

    event_id: str
    fields: Mapping[str, Any]
    vector: np.ndarray | None = None


class StoreReader(NamedTuple):
    """How to read one store: which events belong there (a condition on ``events``), and which fields it has of them."""

    title: str
    condition: str
    fields: Sequence[str]
    read: Callable[[Settings, str], Iterator[StoredEvent]]


def to_json(extra: str | None) -> str | None:
    """JSON with sorted names, so that two ways to write one object are equal."""
    return None if extra is None else json.dumps(json.loads(extra), sort_keys=True)


def read_mongo(settings: Settings, _prefix: str = "") -> Iterator[StoredEvent]:
    """Every document; absent fields are absent."""
    with _mongo(settings.mongo) as client:
        options = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_MS)
        database = client.get_database(settings.mongo.database, codec_options=options)
        for document in database.get_collection(settings.mongo.collection).find(batch_size=CHUNK):
            event_id = document.pop("_id")
            if "extra" in document:
                document["extra"] = json.dumps(_unescape(document["extra"]), sort_keys=True)
            yield StoredEvent(str(event_id), {**document, "occurred_at": int(document["occurred_at"])})


def _mongo(settings: MongoSettings) -> pymongo.MongoClient[dict[str, Any]]:
    return pymongo.MongoClient(settings.uri, readPreference="primary", serverSelectionTimeoutMS=20_000)


def _unescape(value: Any) -> Any:
    """Names as the message has them: MongoDB would read ``$`` and ``.`` in a name as an operator or a path."""
    if isinstance(value, dict):
        return {_unescape_name(name): _unescape(member) for name, member in value.items()}
    return [_unescape(member) for member in value] if isinstance(value, list) else value


def _unescape_name(name: str) -> str:
    plain, escaped = "", False
    for character in name:
        if not escaped and character == "＼":
            escaped = True
            continue
        plain += character if escaped else {"＄": "$", "．": "."}.get(character, character)
        escaped = False
    return plain


def read_milvus(settings: Settings, _prefix: str = "") -> Iterator[StoredEvent]:
    """Every row with its vector; if they are many, in ranges of the key, which is hexadecimal."""
    name = f"{settings.milvus.message_collection}_{settings.embed.generation.name}"
    with closing(open_milvus(settings.milvus)) as client:
        if not client.has_collection(name, timeout=_MILVUS_TIMEOUT_S):
            return
        rows = query_rows(client, name, 'id >= ""', limit=MILVUS_ROWS)
        if len(rows) < MILVUS_ROWS:
            yield from map(_milvus_event, rows)
            return
        digits = math.ceil(math.log(count_rows(client, name) / MILVUS_ROWS, len(_HEX)))
        for start in map("".join, product(_HEX, repeat=max(1, digits))):
            yield from map(_milvus_event, query_rows(client, name, f'id like "{start}%"'))


def open_milvus(settings: MilvusSettings) -> MilvusClient:
    """A connected client; the caller closes it."""
    return MilvusClient(settings.uri, token=settings.token, timeout=20)


def query_rows(client: MilvusClient, collection: str, condition: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows that a filter selects, with every field; at most ``limit`` of them."""
    options = {} if limit is None else {"limit": limit}
    rows: list[dict[str, Any]] = client.query(
        collection,
        filter=condition,
        output_fields=["*"],
        consistency_level="Strong",
        timeout=_MILVUS_TIMEOUT_S,
        **options,
    )
    return rows


def count_rows(client: MilvusClient, collection: str) -> int:
    """The number of rows; a key that is stored twice counts twice. 0 for a collection that does not exist."""
    if not client.has_collection(collection, timeout=_MILVUS_TIMEOUT_S):
        return 0
    (row,) = client.query(
        collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=_MILVUS_TIMEOUT_S
    )
    return int(row["count(*)"])


class VectorCounts(NamedTuple):
    """The number of rows in the collections of messages and of profiles."""

    messages: int
    profiles: int


def count_vectors(settings: Settings) -> VectorCounts:
    """Count them: a query returns one row per key, even if there are two; a count does not."""
    names = (settings.milvus.message_collection, settings.milvus.profile_collection)
    with closing(open_milvus(settings.milvus)) as client:
        return VectorCounts(*(count_rows(client, f"{name}_{settings.embed.generation.name}") for name in names))


def _milvus_event(row: dict[str, Any]) -> StoredEvent:
    fields = {name: row[name] for name in ("user_id", "occurred_at", "version", "digest")}
    return StoredEvent(row["id"], fields, np.asarray(row["vector"], dtype=np.float32))


_EDGES = """
MATCH (user:User)-[engaged:ENGAGED]->(item:Item) WHERE user.id STARTS WITH $prefix
RETURN engaged.event_id AS id, user.id AS user_id, item.id AS item_id, engaged.kind AS kind, engaged.at AS occurred_at,
       engaged.weight AS weight, engaged.version AS version, engaged.digest AS digest
"""
_CAMPAIGNS = """
MATCH (item:Item)-[:IN]->(campaign:Campaign) WHERE item.id STARTS WITH $prefix
RETURN item.id AS item, campaign.id AS campaign, count(*) AS times
"""


def read_neo4j(settings: Settings, prefix: str = "") -> Iterator[StoredEvent]:
    """Every relationship of users whose name begins with ``prefix``."""
    for row in query_graph(settings.neo4j, _EDGES, prefix):
        yield StoredEvent(row.pop("id"), row)


def read_item_campaigns(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str, int]]:
    """Every pair of an item and a campaign, and how often it is stored."""
    for row in query_graph(settings.neo4j, _CAMPAIGNS, prefix):
        yield row["item"], row["campaign"], row["times"]


def query_graph(settings: Neo4jSettings, query: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The rows of a query, from the leader."""
    with (
        neo4j.GraphDatabase.driver(settings.uri, auth=(settings.user, settings.password)) as driver,
        driver.session(database=settings.database, default_access_mode=neo4j.WRITE_ACCESS) as session,
    ):
        for record in session.run(query, prefix=prefix):
            yield record.data()


_ROWS = """
SELECT event_id, user_id, message_id, kind, (extract(epoch FROM occurred_at) * 1000)::bigint,
       (extract(epoch FROM hour) * 1000)::bigint, text, item_id, campaign_id, value, version, digest, extra::text,
       text_hash
FROM events
"""
_ROW_FIELDS = (
    "user_id", "message_id", "kind", "occurred_at", "hour", "text", "item_id", "campaign_id", "value", "version",
    "digest", "extra", "text_hash",
)  # fmt: skip


def read_warehouse(settings: Settings, _prefix: str = "") -> Iterator[StoredEvent]:
    """Every row; absent fields are None."""
    for event_id, *values in query_warehouse(settings, _ROWS):
        fields = dict(zip(_ROW_FIELDS, values, strict=True))
        yield StoredEvent(event_id, {**fields, "extra": to_json(fields["extra"])})


def query_warehouse(settings: Settings, query: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The rows of a query, streamed."""
    with closing(psycopg2.connect(settings.warehouse.dsn)) as connection, connection.cursor("checker") as cursor:
        cursor.itersize = CHUNK
        cursor.execute(query, parameters)
        for rows in batched(cursor, CHUNK):
            yield from rows


READERS = {
    "mongo": StoreReader(
        "MongoDB",
        "true",
        [name for name in _ROW_FIELDS if name not in ("hour", "text_hash")],
        read_mongo,
    ),
    "milvus": StoreReader("Milvus", "text IS NOT NULL", ["user_id", "occurred_at", "version", "digest"], read_milvus),
    "neo4j": StoreReader(
        "Neo4j",
        "item_id IS NOT NULL",
        ["user_id", "item_id", "kind", "occurred_at", "weight", "version", "digest"],
        read_neo4j,
    ),
    "warehouse": StoreReader("the warehouse", "true", _ROW_FIELDS, read_warehouse),
}
