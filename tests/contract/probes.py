"""Reading sinks back, for tests only: what is stored, in the same form for every store."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from include.domain.generation import Generation
from include.settings import MilvusSettings, MongoSettings, Neo4jSettings


@dataclass(frozen=True)
class Stored:
    """What every store of events has of one event; ``item`` only if the probe returns items."""

    user: str
    at: int
    version: int
    digest: str
    item: str | None = None


type StoredEvents = dict[str, Stored]


class Probe(Protocol):
    """Reads everything that one test has stored, by event id."""

    def read(self) -> StoredEvents: ...
    def close(self) -> None: ...


class MemoryProbe:
    """``read_rows`` returns the rows of a sink in memory."""

    def __init__(self, read_rows: Callable[[], Mapping[Any, Mapping[str, Any]]]) -> None:
        self._read_rows = read_rows

    def read(self) -> StoredEvents:
        return {
            row["event_id"]: Stored(row["user_id"], row["occurred_at"], row["version"], row["digest"], row["item_id"])
            for row in self._read_rows().values()
        }

    def close(self) -> None:
        """Nothing to close."""


class MongoProbe:
    def __init__(self, settings: MongoSettings) -> None:
        from pymongo import MongoClient

        self._client: MongoClient[dict[str, Any]] = MongoClient(settings.uri, tz_aware=True)
        self._events = self._client[settings.database][settings.collection]

    def documents(self) -> dict[str, dict[str, Any]]:
        """The documents as they are, by ``_id``."""
        return {document["_id"]: document for document in self._events.find()}

    def read(self) -> StoredEvents:
        return {
            event_id: Stored(
                document["user_id"],
                math.floor(document["occurred_at"].timestamp() * 1000),
                document["version"],
                document["digest"],
                document.get("item_id"),
            )
            for event_id, document in self.documents().items()
        }

    def close(self) -> None:
        self._client.close()


class MilvusProbe:
    """Reads the rows of users whose name begins with ``prefix``."""

    def __init__(self, settings: MilvusSettings, generation: Generation, prefix: str) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(settings.uri, timeout=10)
        self._collection = f"{settings.message_collection}_{generation.name}"
        self._filter = f'user_id like "{prefix}%"'

    def rows(self) -> list[dict[str, Any]]:
        """Every row with its vector; a key that is stored twice appears twice."""
        rows: list[dict[str, Any]] = self._client.query(
            self._collection, filter=self._filter, output_fields=["*"], consistency_level="Strong", timeout=30
        )
        return rows

    def vectors(self) -> dict[str, np.ndarray]:
        """The vectors by event id."""
        return {row["id"]: np.asarray(row["vector"], dtype=np.float32) for row in self.rows()}

    def read(self) -> StoredEvents:
        rows = self.rows()
        events = {row["id"]: Stored(row["user_id"], row["occurred_at"], row["version"], row["digest"]) for row in rows}
        assert len(events) == len(rows), "one event has two rows"
        return events

    def close(self) -> None:
        self._client.close()


class Neo4jProbe:
    """Reads the relationships of users whose name begins with ``prefix``."""

    def __init__(self, settings: Neo4jSettings, prefix: str) -> None:
        from neo4j import GraphDatabase

        self._driver = GraphDatabase.driver(settings.uri, auth=(settings.user, settings.password))
        self._prefix = prefix

    def read(self) -> StoredEvents:
        records, _, _ = self._driver.execute_query(
            "MATCH (u:User)-[r:ENGAGED]->(i:Item) WHERE u.id STARTS WITH $prefix "
            "RETURN u.id AS user, r.event_id AS id, r.at AS at, r.version AS version, r.digest AS digest, i.id AS item",
            prefix=self._prefix,
        )
        events = {r["id"]: Stored(r["user"], r["at"], r["version"], r["digest"], r["item"]) for r in records}
        assert len(events) == len(records), "one event has two relationships"
        return events

    def details(self) -> dict[str, tuple[str, float, str | None]]:
        """Kind, weight and the item's campaign, by event id."""
        records, _, _ = self._driver.execute_query(
            "MATCH (u:User)-[r:ENGAGED]->(i:Item) WHERE u.id STARTS WITH $prefix OPTIONAL MATCH (i)-[:IN]->(c:Campaign)"
            "RETURN r.event_id AS id, r.kind AS kind, r.weight AS weight, c.id AS campaign",
            prefix=self._prefix,
        )
        return {r["id"]: (r["kind"], r["weight"], r["campaign"]) for r in records}

    def close(self) -> None:
        self._driver.close()


class WarehouseProbe:
    """Reads every row of the table of events."""

    def __init__(self, dsn: str) -> None:
        import psycopg2

        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True

    def read(self) -> StoredEvents:
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('events')")
            if cursor.fetchone() == (None,):
                return {}
            cursor.execute(
                "SELECT event_id, user_id, round(extract(epoch FROM occurred_at) * 1000)::bigint, version, digest, "
                "item_id FROM events"
            )
            return {event_id: Stored(*columns) for event_id, *columns in cursor.fetchall()}

    def close(self) -> None:
        self._connection.close()
