"""The running system as its users have it: they publish, press buttons in Airflow, and read the endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg2
from pymilvus import MilvusClient
from pymongo import MongoClient

from demo.airflow import Airflow
from demo.wait import Collector
from demo.watch import AGGREGATE, INGEST, PRECOMPUTE
from include.domain.identity import shard_of
from include.settings import Settings
from include.sources.kafka import KafkaSource
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics
from include.stores.warehouse.warehouse import Warehouse
from stack.stack import Stack

DONE = ("success", "failed", "skipped")
PATIENCE_S = 420


@dataclass(frozen=True)
class Stored:
    """Everything that the stores hold, in a form that can be compared."""

    mongo: Mapping[str, Any]
    milvus: Mapping[str, Any]
    neo4j: Mapping[str, Any]
    warehouse: list[Any]
    engagement: list[Any]


class System:
    """Kafka in, the endpoint out, Airflow's REST API beside it."""

    def __init__(self, stack: Stack) -> None:
        environment = stack.environment()
        self.settings = Settings.from_environment(environment)
        self.reader = httpx.Client(base_url=environment["MILLRACE_READER_URL"], timeout=10, trust_env=False)
        self.warehouse = Warehouse(self.settings.warehouse)
        self.mongo: MongoClient[dict[str, Any]] = MongoClient(self.settings.mongo.uri)
        self.source = KafkaSource(self.settings.kafka)
        self.airflow = Airflow.of(environment, seconds=60)
        ensure_topics(self.settings.kafka, self.shards)

    @property
    def shards(self) -> int:
        return self.settings.pipeline.shards

    def close(self) -> None:
        """Give every connection back."""
        for client in (self.reader, self.warehouse, self.mongo, self.source, self.airflow):
            client.close()

    def publish(self, events: Mapping[str, list[bytes]], published_at: datetime) -> None:
        """Messages by user, with this Kafka timestamp."""
        publisher = Publisher(self.settings.kafka)
        for user, payloads in events.items():
            for payload in payloads:
                moment = round(published_at.timestamp() * 1000)
                publisher.send(shard_of(user, self.shards), user.encode(), payload, moment)
        publisher.flush()
        publisher.close()

    def settle(self) -> None:
        """Wait until all is ingested and aggregated, and lists rest on all of that."""
        wait_for("all to be ingested, aggregated and recommended", self.settled)

    def settled(self) -> bool:
        """Whether nothing waits, nothing runs, and a precompute began after the last commit and aggregation.

        The marks alone do not tell: a precompute on its schedule may clear them before all is counted.
        """
        ends = {shard: self.source.offsets(shard).high for shard in range(self.shards)}
        kafka, embed = self.settings.kafka, self.settings.embed
        seen = Collector(self.airflow, self.warehouse.database, kafka.topic, embed.generation, ends).snapshot()
        if seen.settled is None or seen.users or seen.active(INGEST, AGGREGATE, PRECOMPUTE):
            return False
        return bool(seen.precomputed_since(seen.settled))

    def run_by_hand(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Trigger a run and wait for its end; its state."""
        runs = f"/api/v2/dags/{dag_id}/dagRuns"
        run = self.airflow.ask("POST", runs, json={"logical_date": None, "conf": conf})["dag_run_id"]
        path = f"{runs}/{run}"
        wait_for(f"{dag_id} {run}", lambda: self.airflow.ask("GET", path)["state"] in DONE)
        return str(self.airflow.ask("GET", path)["state"])

    def backfill(self, dag_id: str, start: datetime, end: datetime) -> list[str]:
        """Backfill the hours of ``[start, end]`` and wait; the states of its runs."""
        body = {
            "dag_id": dag_id,
            "from_date": start.isoformat(),
            "to_date": end.isoformat(),
            "reprocess_behavior": "completed",
        }
        made = self.airflow.ask("POST", "/api/v2/backfills", json=body)["id"]
        path = f"/api/v2/backfills/{made}"
        wait_for(f"the backfill of {dag_id}", lambda: self.airflow.ask("GET", path)["completed_at"])
        query = {"dag_ids": [dag_id], "page_limit": 100}
        runs = self.airflow.ask("POST", "/api/v2/dags/~/dagRuns/list", json=query)["dag_runs"]
        return [row["state"] for row in runs if row["run_type"] == "backfill"]

    def recommendations(self, user: str) -> Any:
        """The endpoint's answer."""
        return self.reader.get(f"/v1/users/{user}/recommendations", params={"limit": 60}).raise_for_status().json()

    def stored(self) -> Stored:
        """Everything the stores hold now."""
        events = self.mongo[self.settings.mongo.database][self.settings.mongo.collection]
        return Stored(
            mongo={document["_id"]: document for document in events.find()},
            milvus=self._vectors(),
            neo4j=self._graph(),
            warehouse=self._rows("SELECT * FROM events ORDER BY user_id, message_id"),
            engagement=self._rows("SELECT * FROM engagement_hourly ORDER BY 1, 2, 3, 4"),
        )

    def _rows(self, statement: str) -> list[Any]:
        with psycopg2.connect(self.settings.warehouse.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            rows: list[Any] = cursor.fetchall()
        connection.close()
        return rows

    def _vectors(self) -> dict[str, Any]:
        client = MilvusClient(self.settings.milvus.uri, timeout=20)
        fields = ["id", "user_id", "version", "digest"]
        rows = client.query(
            self.settings.milvus.message_collection,
            filter="id != ''",
            output_fields=fields,
            consistency_level="Strong",
            timeout=20,
        )
        client.close()
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: tuple(row[name] for name in fields) for row in rows}

    def _graph(self) -> dict[str, Any]:
        from neo4j import GraphDatabase

        neo4j = self.settings.neo4j
        with GraphDatabase.driver(neo4j.uri, auth=(neo4j.user, neo4j.password)) as driver:
            records, _, _ = driver.execute_query(
                "MATCH (u:User)-[r:ENGAGED]->(i:Item) RETURN r.event_id AS id, u.id AS user, i.id AS item, r.at AS at"
            )
        assert len({record["id"] for record in records}) == len(records)
        return {record["id"]: (record["user"], record["item"], record["at"]) for record in records}


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Look every second; give up after PATIENCE_S."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"waited {PATIENCE_S} s for {what}"
        time.sleep(1)


def hour_before(moment: datetime, hours: int) -> datetime:
    """The full hour that lies ``hours`` before the one of ``moment``."""
    return datetime.fromtimestamp(moment.timestamp() // 3600 * 3600 - 3600 * hours, UTC)
