"""Reading sinks back, for tests only: what is stored, in one form whatever the store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from include.domain.generation import Generation
from include.settings import MilvusSettings, MongoSettings, Neo4jSettings


@dataclass(frozen=True)
class Stored:
    """What every store of events knows of one; ``item`` only where the store keeps it."""

    user: str
    at: int
    version: int
    digest: str
    item: str | None = None


type Found = dict[str, Stored]


class Probe(Protocol):
    """Everything that one test has stored, by event id."""

    def found(self) -> Found: ...
    def close(self) -> None: ...


class MemoryProbe:
    def __init__(self, rows: Mapping[str, Mapping[str, Any]], *, items: bool) -> None:
        self._rows = rows
        self._items = items

    def found(self) -> Found:
        return {
            event_id: Stored(
                row["user_id"],
                row["occurred_at"],
                row["version"],
                row["digest"],
                row["item_id"] if self._items else None,
            )
            for event_id, row in self._rows.items()
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

    def found(self) -> Found:
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
    """What belongs to users whose name begins with ``prefix``."""

    def __init__(self, settings: MilvusSettings, generation: Generation, prefix: str) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(settings.uri, timeout=10)
        self._collection = f"{settings.message_collection}_{generation.name}"
        self._filter = f'user_id like "{prefix}%"'

    def rows(self) -> list[dict[str, Any]]:
        """Every row with its vector; twice, if one key is there twice."""
        rows: list[dict[str, Any]] = self._client.query(
            self._collection, filter=self._filter, output_fields=["*"], consistency_level="Strong", timeout=30
        )
        return rows

    def vectors(self) -> dict[str, np.ndarray]:
        """The vectors by event id."""
        return {row["id"]: np.asarray(row["vector"], dtype=np.float32) for row in self.rows()}

    def found(self) -> Found:
        rows = self.rows()
        found = {row["id"]: Stored(row["user_id"], row["occurred_at"], row["version"], row["digest"]) for row in rows}
        assert len(found) == len(rows), "one event has two rows"
        return found

    def close(self) -> None:
        self._client.close()


class Neo4jProbe:
    """What belongs to users whose name begins with ``prefix``."""

    def __init__(self, settings: Neo4jSettings, prefix: str) -> None:
        from neo4j import GraphDatabase

        self._driver = GraphDatabase.driver(settings.uri, auth=(settings.user, settings.password))
        self._prefix = prefix

    def found(self) -> Found:
        records, _, _ = self._driver.execute_query(
            "MATCH (u:User)-[r:ENGAGED]->(i:Item) WHERE u.id STARTS WITH $prefix "
            "RETURN u.id AS user, r.event_id AS id, r.at AS at, r.version AS version, r.digest AS digest, i.id AS item",
            prefix=self._prefix,
        )
        found = {r["id"]: Stored(r["user"], r["at"], r["version"], r["digest"], r["item"]) for r in records}
        assert len(found) == len(records), "one event has two relationships"
        return found

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
