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

from include.domain.identity import shard_of
from include.local.stack import Stack
from include.settings import Settings
from include.sources.kafka import KafkaSource
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics
from include.stores.warehouse.warehouse import Warehouse

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
        self._airflow = httpx.Client(base_url=environment["MILLRACE_AIRFLOW_URL"], timeout=60, trust_env=False)
        login = {"username": environment["MILLRACE_AIRFLOW_USER"], "password": environment["MILLRACE_AIRFLOW_PASSWORD"]}
        token = self._airflow.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        self._airflow.headers["Authorization"] = f"Bearer {token}"
        self._published_at = datetime.now(UTC)
        ensure_topics(self.settings.kafka, self.shards)

    @property
    def shards(self) -> int:
        return self.settings.pipeline.shards

    def close(self) -> None:
        """Give every connection back."""
        for client in (self.reader, self.warehouse, self.mongo, self.source, self._airflow):
            client.close()

    def publish(self, events: Mapping[str, list[bytes]], published_at: datetime) -> None:
        """Messages by user, with this Kafka timestamp."""
        self._published_at = datetime.now(UTC)
        publisher = Publisher(self.settings.kafka)
        for user, payloads in events.items():
            for payload in payloads:
                moment = round(published_at.timestamp() * 1000)
                publisher.send(shard_of(user, self.shards), user.encode(), payload, moment)
        publisher.flush()
        publisher.close()

    def settle(self) -> None:
        """Wait until all is ingested and aggregated, and lists rest on all of that."""

        def settled() -> bool:
            return self._ingested() and self._aggregated() and self._recommended()

        wait_for("all to be ingested, aggregated and recommended", settled)

    def _ingested(self) -> bool:
        positions = self.warehouse.inventory.positions(self.settings.kafka.topic)
        return all(positions.get(shard, 0) == self.source.offsets(shard).high for shard in range(self.shards))

    def _aggregated(self) -> bool:
        return self.warehouse.inventory.pending() == (0, 0) and not self.active_runs()

    def _recommended(self) -> bool:
        """A precompute may run on its schedule before all is counted, and clear the marks: one that began after is due.

        Each batch that is committed has engagement aggregated, whatever it held.
        """
        aggregated = self._latest("aggregate_engagement", "aggregate")
        selected = self._latest("precompute_recommendations", "select_users")
        return (
            aggregated is not None
            and selected is not None
            and self._published_at < aggregated[0]
            and aggregated[1] <= selected[0]
        )

    def _latest(self, dag_id: str, task_id: str) -> tuple[datetime, datetime] | None:
        """When this task last began, of those that succeeded, and when it ended."""
        query = {"dag_ids": [dag_id], "task_ids": [task_id], "state": ["success"]}
        body = {**query, "order_by": "-start_date", "page_limit": 1}
        for row in self.ask("POST", "/api/v2/dags/~/dagRuns/~/taskInstances/list", body)["task_instances"]:
            return datetime.fromisoformat(row["start_date"]), datetime.fromisoformat(row["end_date"])
        return None

    def active_runs(self) -> list[str]:
        """The runs that wait or work."""
        body = {"states": ["queued", "running"], "page_limit": 100}
        answer = self.ask("POST", "/api/v2/dags/~/dagRuns/list", body)
        return [row["dag_run_id"] for row in answer["dag_runs"]]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request to Airflow's REST API, as its UI makes it."""
        answer = self._airflow.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def run_by_hand(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Trigger a run and wait for its end; its state."""
        run = self.ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run}"
        wait_for(f"{dag_id} {run}", lambda: self.ask("GET", path)["state"] in DONE)
        return str(self.ask("GET", path)["state"])

    def backfill(self, dag_id: str, start: datetime, end: datetime) -> list[str]:
        """Backfill the hours of ``[start, end]`` and wait; the states of its runs."""
        body = {
            "dag_id": dag_id,
            "from_date": start.isoformat(),
            "to_date": end.isoformat(),
            "reprocess_behavior": "completed",
        }
        made = self.ask("POST", "/api/v2/backfills", body)["id"]
        wait_for(f"the backfill of {dag_id}", lambda: self.ask("GET", f"/api/v2/backfills/{made}")["completed_at"])
        runs = self.ask("POST", "/api/v2/dags/~/dagRuns/list", {"dag_ids": [dag_id], "page_limit": 100})["dag_runs"]
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
