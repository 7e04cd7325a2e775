"""The baselines for the sinks: each server's own bulk write, without any of the sinks' guarantees.

Rows are prepared before the clock starts, so that only the driver and the server are measured. Nothing is compared,
marked or removed: if two versions of one event arrive, the first one stays (in Milvus the last one).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import batched
from typing import Any, Protocol

import neo4j
import psycopg2
import pyarrow as pa
import pyarrow.csv as arrow_csv
from pymilvus import MilvusClient
from pymongo import MongoClient
from pymongo.errors import BulkWriteError

from include.bootstrap import SINKS
from include.domain.batch import StagedBatch
from include.domain.ranking import kind_weight
from include.settings import MongoSettings, Neo4jSettings, Settings, WarehouseSettings
from include.sinks.milvus import MilvusSink
from include.stores.mongo import DUPLICATE_KEY, to_documents
from include.stores.warehouse.warehouse import Warehouse

NAMES = ("mongo", "milvus", "neo4j", "warehouse")
_DOCUMENTS = 5_000
_VECTORS = 5_000
_RELATIONSHIPS = 2_000


class PlainWriter(Protocol):
    """One server's bulk writer. Only ``write`` is measured."""

    def prepare(self, batch: StagedBatch) -> int:
        """Prepare a batch. Returns the number of rows that ``write`` will write."""

    def write(self) -> None: ...
    def count(self) -> int:
        """Returns the number of rows in the server."""

    def close(self) -> None: ...


class PlainMongo:
    """``insert_many`` by ``_id``, unordered."""

    def __init__(self, settings: MongoSettings) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(settings.uri)
        self._events = self._client[settings.database][settings.collection]
        self._rows: list[dict[str, Any]] = []

    def prepare(self, batch: StagedBatch) -> int:
        """Prepare one document per event."""
        self._rows = to_documents(batch.events)
        return len(self._rows)

    def write(self) -> None:
        """Events from an earlier batch are rejected as duplicates, which is fine."""
        for chunk in batched(self._rows, _DOCUMENTS):
            try:
                self._events.insert_many(chunk, ordered=False)
            except BulkWriteError as exc:
                if any(error["code"] != DUPLICATE_KEY for error in exc.details["writeErrors"]):
                    raise

    def count(self) -> int:
        """Returns the number of documents."""
        return self._events.count_documents({})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class PlainMilvus:
    """``upsert`` into a collection like the sink's, one partition at a time."""

    def __init__(self, settings: Settings) -> None:
        milvus, generation, shards = settings.milvus, settings.embed.generation, settings.pipeline.shards
        sink = MilvusSink(milvus, generation, shards)
        sink.prepare()
        sink.close()
        self._client = MilvusClient(milvus.uri, timeout=30)
        self._name = f"{milvus.message_collection}_{generation.name}"
        self._partitions = sorted(name for name in self._client.list_partitions(self._name) if name != "_default")
        self._partition = ""
        self._rows: list[dict[str, Any]] = []

    def prepare(self, batch: StagedBatch) -> int:
        """Prepare one row per event with a text. All users of a batch are in its shard, and so in one partition."""
        self._partition = self._partitions[batch.ref.shard]
        vectors = dict(zip(batch.text_hashes, batch.vectors, strict=True))
        columns = ["event_id", "user_id", "version", "digest", "text_hash"]
        times = batch.events["occurred_at"].cast(pa.int64()).to_pylist()
        self._rows = [
            {
                "id": row["event_id"],
                "vector": vectors[row["text_hash"]],
                "user_id": row["user_id"],
                "occurred_at": at,
                "version": row["version"],
                "digest": row["digest"],
            }
            for row, at in zip(batch.events.select(columns).to_pylist(), times, strict=True)
            if row["text_hash"] is not None
        ]
        return len(self._rows)

    def write(self) -> None:
        """Write with the sink's request size."""
        for chunk in batched(self._rows, _VECTORS):
            self._client.upsert(self._name, list(chunk), partition_name=self._partition)

    def count(self) -> int:
        """Returns the number of rows."""
        rows = self._client.query(
            self._name, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=60
        )
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


_CONSTRAINTS = (
    "CREATE CONSTRAINT plain_user IF NOT EXISTS FOR (n:PlainUser) REQUIRE n.id IS UNIQUE",
    "CREATE CONSTRAINT plain_item IF NOT EXISTS FOR (n:PlainItem) REQUIRE n.id IS UNIQUE",
    "CREATE CONSTRAINT plain_campaign IF NOT EXISTS FOR (n:PlainCampaign) REQUIRE n.id IS UNIQUE",
    "CREATE CONSTRAINT plain_engaged IF NOT EXISTS FOR ()-[r:PLAIN_ENGAGED]-() REQUIRE r.event_id IS UNIQUE",
)
_MERGE_EVENTS = """
UNWIND $rows AS row
MERGE (user:PlainUser {id: row.user})
MERGE (item:PlainItem {id: row.item})
MERGE (user)-[engaged:PLAIN_ENGAGED {event_id: row.event_id}]->(item)
ON CREATE SET engaged.kind = row.kind, engaged.at = row.at, engaged.weight = row.weight,
              engaged.version = row.version, engaged.digest = row.digest
"""
_MERGE_CAMPAIGNS = """
UNWIND $rows AS row
MERGE (item:PlainItem {id: row.item})
MERGE (campaign:PlainCampaign {id: row.campaign})
MERGE (item)-[:PLAIN_IN]->(campaign)
"""


class PlainNeo4j:
    """``UNWIND ... MERGE`` with uniqueness constraints, on its own labels: this edition has only one database."""

    def __init__(self, settings: Neo4jSettings) -> None:
        self._driver = neo4j.GraphDatabase.driver(settings.uri, auth=(settings.user, settings.password))
        self._database = settings.database
        self._rows: list[dict[str, Any]] = []
        self._pairs: list[dict[str, Any]] = []
        with self._driver.session(database=self._database) as session:
            for constraint in _CONSTRAINTS:
                session.run(constraint).consume()

    def prepare(self, batch: StagedBatch) -> int:
        """Prepare one relationship per event with an item, and the pairs of items and campaigns."""
        names = ["event_id", "user_id", "item_id", "campaign_id", "kind", "version", "digest"]
        times = batch.events["occurred_at"].cast(pa.int64()).to_pylist()
        events = zip(batch.events.select(names).to_pylist(), times, strict=True)
        rows = [(row, at) for row, at in events if row["item_id"] is not None]
        self._rows = [_make_relationship(row, at) for row, at in rows]
        pairs = {(row["item_id"], row["campaign_id"]) for row, _ in rows if row["campaign_id"] is not None}
        self._pairs = [{"item": item, "campaign": campaign} for item, campaign in sorted(pairs)]
        return len(self._rows)

    def write(self) -> None:
        """Write the relationships, then the pairs."""
        with self._driver.session(database=self._database) as session:
            for query, rows in ((_MERGE_EVENTS, self._rows), (_MERGE_CAMPAIGNS, self._pairs)):
                for chunk in batched(rows, _RELATIONSHIPS):
                    session.execute_write(_run_query, query, list(chunk))

    def count(self) -> int:
        """Returns the number of relationships."""
        records, _, _ = self._driver.execute_query("MATCH ()-[r:PLAIN_ENGAGED]->() RETURN count(r) AS n")
        return int(records[0]["n"])

    def close(self) -> None:
        """Close the connections."""
        self._driver.close()


def _make_relationship(row: Mapping[str, Any], at: int) -> dict[str, Any]:
    return {
        "event_id": row["event_id"],
        "user": row["user_id"],
        "item": row["item_id"],
        "kind": row["kind"],
        "at": at,
        "weight": kind_weight(row["kind"]),
        "version": row["version"],
        "digest": row["digest"],
    }


def _run_query(transaction: neo4j.ManagedTransaction, query: str, rows: Sequence[Any]) -> None:
    transaction.run(query, rows=rows).consume()


def delete_graph(settings: Neo4jSettings) -> None:
    """Delete every node and relationship, but not the constraints."""
    with (
        neo4j.GraphDatabase.driver(settings.uri, auth=(settings.user, settings.password)) as driver,
        driver.session(database=settings.database) as session,
    ):
        session.run("MATCH ()-[r]->() CALL (r) { DELETE r } IN TRANSACTIONS OF 5000 ROWS").consume()
        session.run("MATCH (n) CALL (n) { DELETE n } IN TRANSACTIONS OF 5000 ROWS").consume()


_COLUMNS = (
    *("user_id", "message_id", "event_id", "kind", "occurred_at", "text", "text_hash", "item_id", "campaign_id"),
    *("value", "version", "digest", "extra"),
)
_COLUMN_LIST = ", ".join(_COLUMNS)
_INSERT = f"""
INSERT INTO plain_events ({_COLUMN_LIST}, hour, first_batch)
SELECT {_COLUMN_LIST}, date_trunc('hour', occurred_at, 'UTC'), '' FROM incoming
ON CONFLICT (user_id, message_id) DO NOTHING
"""


class PlainWarehouse:
    """``COPY`` into a temporary table, then ``INSERT ... ON CONFLICT`` into a table like the sink's."""

    def __init__(self, settings: WarehouseSettings) -> None:
        warehouse = Warehouse(settings)
        warehouse.database.execute("CREATE TABLE IF NOT EXISTS plain_events (LIKE events INCLUDING ALL)")
        warehouse.close()
        self._connection = psycopg2.connect(settings.dsn)
        self._rows = io.BytesIO()

    def prepare(self, batch: StagedBatch) -> int:
        """Prepare one line of CSV per event."""
        self._rows = io.BytesIO()
        options = arrow_csv.WriteOptions(include_header=False, quoting_style="needed")
        arrow_csv.write_csv(batch.events.select(list(_COLUMNS)), self._rows, options)
        self._rows.seek(0)
        return int(batch.events.num_rows)

    def write(self) -> None:
        """Write the batch in one transaction."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(
                f"CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT {_COLUMN_LIST} FROM plain_events LIMIT 0"
            )
            cursor.copy_expert(f"COPY incoming ({_COLUMN_LIST}) FROM STDIN WITH (FORMAT csv)", self._rows)
            cursor.execute(_INSERT)

    def count(self) -> int:
        """Returns the number of rows."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM plain_events")
            return int(cursor.fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_plain_writer(name: str, settings: Settings) -> PlainWriter:
    """Open the bulk writer of this server."""
    match name:
        case "mongo":
            return PlainMongo(settings.mongo)
        case "milvus":
            return PlainMilvus(settings)
        case "neo4j":
            return PlainNeo4j(settings.neo4j)
        case _:
            return PlainWarehouse(settings.warehouse)


def expected_ids(name: str, events: pa.Table) -> set[str]:
    """Returns the ids of the events that belong in this store."""
    column = SINKS[name].needs
    matching = events if column is None else events.filter(events[column].is_valid())
    return set(matching["event_id"].to_pylist())
