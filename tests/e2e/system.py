"""The running system as its users see it: they publish events, trigger runs in Airflow and read the endpoint."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import psycopg2
from pymilvus import MilvusClient
from pymongo import MongoClient

from demo.airflow import AirflowClient
from demo.wait import Collector
from demo.watch import AGGREGATE, INGEST, PRECOMPUTE
from include.domain.identity import shard_of
from include.settings import EnvironmentSettings
from include.sources.kafka import KafkaSource
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics
from include.stores.warehouse.warehouse import Warehouse
from stack import records
from stack.stack import Stack

FINISHED_STATES = ("success", "failed", "skipped")
TIMEOUT_S = 420


@dataclass(frozen=True)
class StoreContents:
    """The contents of all stores in comparable form."""

    mongo: Mapping[str, Any]
    milvus: Mapping[str, Any]
    neo4j: Mapping[str, Any]
    warehouse: list[Any]
    engagement: list[Any]


class System:
    """Access to Kafka, the stores, Airflow's REST API and the endpoint."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        environment = stack.environment()
        self.settings = EnvironmentSettings(environment)
        self.reader = httpx.Client(base_url=environment["MILLRACE_READER_URL"], timeout=10, trust_env=False)
        self.warehouse = Warehouse(self.settings.warehouse)
        self.mongo: MongoClient[dict[str, Any]] = MongoClient(self.settings.mongo.uri)
        self.source = KafkaSource(self.settings.kafka)
        self.airflow = AirflowClient.for_stack(environment, timeout_s=60)
        ensure_topics(self.settings.kafka, self.shards)

    @property
    def shards(self) -> int:
        return self.settings.pipeline.shards

    def close(self) -> None:
        """Close all connections."""
        for client in (self.reader, self.warehouse, self.mongo, self.source, self.airflow):
            client.close()

    def publish(self, events: Mapping[str, list[bytes]], published_at: datetime) -> None:
        """Publish these messages by user, with ``published_at`` as their Kafka timestamp."""
        publisher = Publisher(self.settings.kafka)
        for user, payloads in events.items():
            for payload in payloads:
                timestamp_ms = round(published_at.timestamp() * 1000)
                publisher.send(shard_of(user, self.shards), user.encode(), payload, timestamp_ms)
        publisher.flush()
        publisher.close()

    def committed_offsets(self) -> list[int | None]:
        """The group's offset in each shard."""
        return [self.source.read_committed_offset(shard) for shard in range(self.shards)]

    def stores_with(self, event_id: str) -> set[str]:
        """The names of the stores that have this event."""
        contents = self.read_stores()
        stores = {"mongo": contents.mongo, "milvus": contents.milvus, "neo4j": contents.neo4j}
        names = {name for name, events in stores.items() if event_id in events}
        return names | ({"warehouse"} if any(event_id in row for row in contents.warehouse) else set())

    @contextmanager
    def pause(self, server: str) -> Iterator[None]:
        """Stop the processes of a server from running, so that it accepts connections but does not answer."""
        record = records.read_record(self.stack.config.run, server)
        assert record is not None
        processes = record.members()
        try:
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)

    def wait_until_quiesced(self) -> None:
        """Wait until everything is ingested, aggregated and recommended."""
        wait_for("everything to be ingested, aggregated and recommended", self.is_quiesced)

    def is_quiesced(self) -> bool:
        """Whether nothing is pending or running, and a precompute started after the last commit and aggregation.

        Pending work alone is not enough: a scheduled precompute may clear it before everything is counted.
        """
        ends = {shard: self.source.read_offsets(shard).high for shard in range(self.shards)}
        kafka, embed = self.settings.kafka, self.settings.embed
        snapshot = Collector(self.airflow, self.warehouse.database, kafka.topic, embed.generation, ends).take_snapshot()
        if snapshot.quiesced_at is None or snapshot.pending_users:
            return False
        if snapshot.has_active_run(INGEST, AGGREGATE, PRECOMPUTE):
            return False
        return bool(snapshot.find_precomputes_since(snapshot.quiesced_at))

    def trigger_and_wait(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Trigger a run and wait for it to finish. Returns its final state."""
        runs = f"/api/v2/dags/{dag_id}/dagRuns"
        run_id = self.airflow.request("POST", runs, json={"logical_date": None, "conf": conf})["dag_run_id"]
        path = f"{runs}/{run_id}"
        wait_for(f"{dag_id} {run_id}", lambda: self.airflow.request("GET", path)["state"] in FINISHED_STATES)
        return str(self.airflow.request("GET", path)["state"])

    def backfill(self, dag_id: str, start: datetime, end: datetime) -> list[str]:
        """Backfill the hours in ``[start, end]`` and wait for completion. Returns the states of its runs."""
        body = {
            "dag_id": dag_id,
            "from_date": start.isoformat(),
            "to_date": end.isoformat(),
            "reprocess_behavior": "completed",
        }
        backfill_id = self.airflow.request("POST", "/api/v2/backfills", json=body)["id"]
        path = f"/api/v2/backfills/{backfill_id}"
        wait_for(f"the backfill of {dag_id}", lambda: self.airflow.request("GET", path)["completed_at"])
        query = {"dag_ids": [dag_id], "page_limit": 100}
        runs = self.airflow.request("POST", "/api/v2/dags/~/dagRuns/list", json=query)["dag_runs"]
        return [row["state"] for row in runs if row["run_type"] == "backfill"]

    def fetch_recommendations(self, user: str) -> Any:
        """Returns the decoded response of the endpoint."""
        path = f"/v1/users/{quote(user, safe='')}/recommendations"
        return self.reader.get(path, params={"limit": 60}).raise_for_status().json()

    def read_stores(self) -> StoreContents:
        """Returns the current contents of all stores."""
        events = self.mongo[self.settings.mongo.database][self.settings.mongo.collection]
        return StoreContents(
            mongo={document["_id"]: document for document in events.find()},
            milvus=self._read_vectors(),
            neo4j=self._read_graph(),
            warehouse=self._query_warehouse("SELECT * FROM events ORDER BY user_id, message_id"),
            engagement=self._query_warehouse("SELECT * FROM engagement_hourly ORDER BY 1, 2, 3, 4"),
        )

    def _query_warehouse(self, statement: str) -> list[Any]:
        with psycopg2.connect(self.settings.warehouse.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            rows: list[Any] = cursor.fetchall()
        connection.close()
        return rows

    def _read_vectors(self) -> dict[str, Any]:
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

    def _read_graph(self) -> dict[str, Any]:
        from neo4j import GraphDatabase

        neo4j = self.settings.neo4j
        with GraphDatabase.driver(neo4j.uri, auth=(neo4j.user, neo4j.password)) as driver:
            records, _, _ = driver.execute_query(
                "MATCH (u:User)-[r:ENGAGED]->(i:Item) RETURN r.event_id AS id, u.id AS user, i.id AS item, r.at AS at"
            )
        assert len({record["id"] for record in records}) == len(records)
        return {record["id"]: (record["user"], record["item"], record["at"]) for record in records}


def wait_for(description: str, condition: Callable[[], object]) -> None:
    """Check the condition every second; fail after TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S} s for {description}"
        time.sleep(1)


def hour_before(moment: datetime, hours: int) -> datetime:
    """Returns the start of the hour that is ``hours`` before the hour of ``moment``."""
    return datetime.fromtimestamp(moment.timestamp() // 3600 * 3600 - 3600 * hours, UTC)
