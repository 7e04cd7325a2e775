"""The four real stores with the same 30 events, for the suites that compare them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from include.bootstrap import SINKS
from include.domain.event import Event
from include.domain.identity import event_id
from include.embedders.memory import MemoryEmbedder
from include.pipeline.compare import ComparedStore
from include.pipeline.reconcile import ReconcilePorts, Report, Scope, reconcile
from include.pipeline.repair import Repairer, WritePorts, claim_writes
from include.ports import Inventory
from include.settings import MilvusSettings, MongoSettings, Neo4jSettings, WarehouseSettings
from include.sinks.milvus import MilvusSink
from include.sinks.mongo import MongoSink
from include.sinks.neo4j import Neo4jSink
from include.sinks.warehouse import WarehouseSink
from include.stores.files import ArrowFiles
from include.stores.inventory.milvus import MilvusInventory
from include.stores.inventory.mongo import MongoInventory
from include.stores.inventory.neo4j import Neo4jInventory
from include.stores.inventory.warehouse import WarehouseInventory
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.batches import GENERATION, SHARDS, batch_of

NAMES = ("mongo", "milvus", "neo4j", "warehouse")
SCOPE = Scope("events", SHARDS, wait_s=5)


class OwnUsers:
    """The rows of one test's users, in a store that tests share."""

    def __init__(self, inventory: Inventory, prefix: str) -> None:
        self._inventory = inventory
        self._prefix = prefix

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        for chunk in self._inventory.scan(after):
            if own := [user.startswith(self._prefix) for user in chunk["user_id"].to_pylist()]:
                yield chunk.filter(pa.array(own))

    def read(self, keys: pa.Table) -> pa.Table:
        return self._inventory.read(keys)

    def close(self) -> None:
        self._inventory.close()


@dataclass(frozen=True)
class Stores:
    """Every store on its server with 30 events: a third has no text, another no item."""

    prefix: str
    compared: list[ComparedStore]
    writes: WritePorts
    files: ArrowFiles
    mongo: Any
    milvus: Any
    milvus_collection: str
    neo4j: Any
    warehouse: Warehouse

    def event(self, number: int, **fields: Any) -> Event:
        defaults: dict[str, Any] = {
            "text": f"text {number % 5}" if number % 3 else None,
            "item_id": f"{self.prefix}i{number % 4}" if number % 3 != 1 else None,
        }
        user = f"{self.prefix}u{number % 7}"
        return Event(user, f"m{number}", "view", 1_700_000_000_000 + number * 1_000_000, **{**defaults, **fields})

    def reconcile(self, *, repair: bool = False) -> Report:
        ports = ReconcilePorts(self.compared, self.writes.ledger, self.files)
        if not repair:
            return reconcile(SCOPE, ports)
        with claim_writes("reconcile", self.writes.ledger) as ref:
            return reconcile(SCOPE, ports, repair=Repairer(self.compared, self.writes, ref).repair)

    def changed_users(self) -> set[str]:
        return {mark.key for mark in self.warehouse.activity.read_changed_users()}

    def digests(self, report: Report) -> dict[Any, int]:
        return {bucket: total.digest for bucket, total in report.totals.items()}

    def empty(self, name: str) -> None:
        """Delete every event of a store, with its own driver."""
        if name == "mongo":
            self.mongo.delete_many({})
        elif name == "milvus":
            self.milvus.delete(self.milvus_collection, filter=f'user_id like "{self.prefix}%"', timeout=30)
        elif name == "neo4j":
            self._cypher("MATCH (u:User)-[r:ENGAGED]->() WHERE u.id STARTS WITH $prefix DELETE r")
        else:
            self.warehouse.database.execute("TRUNCATE events, pipeline.batches, pipeline.changed_users")

    def damage(self) -> None:
        """In every store one event is missing, one is different, and one is extra."""
        lost = {
            name: self.event(n).event_id for n, name in ((2, "mongo"), (5, "milvus"), (8, "neo4j"), (11, "warehouse"))
        }
        wrong = {
            name: self.event(n).event_id
            for n, name in ((14, "mongo"), (17, "milvus"), (20, "neo4j"), (23, "warehouse"))
        }
        self.mongo.delete_one({"_id": lost["mongo"]})
        self.mongo.update_one({"_id": wrong["mongo"]}, {"$set": {"digest": "0" * 32}})
        self._cypher("MATCH ()-[r:ENGAGED {event_id: $id}]->() DELETE r", id=lost["neo4j"])
        self._cypher("MATCH ()-[r:ENGAGED {event_id: $id}]->() SET r.digest = 'f'", id=wrong["neo4j"])
        self._cypher(
            "MATCH (u:User)-[:ENGAGED]->(i) WHERE u.id STARTS WITH $prefix WITH u, i LIMIT 1 "
            "CREATE (u)-[:ENGAGED {event_id: $id, kind: 'view', at: 0, weight: 1.0, version: 9, digest: 'x'}]->(i)",
            id=event_id(self.prefix, "extra"),
        )
        self._damage_milvus(lost["milvus"], wrong["milvus"])
        execute = self.warehouse.database.execute
        execute("DELETE FROM events WHERE event_id = %(id)s", {"id": lost["warehouse"]})
        execute(
            "UPDATE events SET digest = %(digest)s WHERE event_id = %(id)s",
            {"id": wrong["warehouse"], "digest": "0" * 32},
        )
        # What only one store of full contents has is an event, which the others lack.
        self.writes.sinks["mongo"].upsert(batch_of([self.event(50, text="t", item_id=None)]))
        self.writes.sinks["warehouse"].upsert(batch_of([self.event(51, text=None, item_id=f"{self.prefix}i0")]))

    def _damage_milvus(self, lost: str, wrong: str) -> None:
        common = {"filter": f'id == "{wrong}"', "consistency_level": "Strong", "timeout": 30}
        (row,) = self.milvus.query(self.milvus_collection, output_fields=["*"], **common)
        (partition,) = [
            name
            for name in self.milvus.list_partitions(self.milvus_collection, timeout=30)
            if self.milvus.query(self.milvus_collection, partition_names=[name], output_fields=["id"], **common)
        ]
        changed = {**row, "digest": "0" * 32}
        extra = {**row, "id": event_id(self.prefix, "extra")}
        self.milvus.upsert(self.milvus_collection, [changed, extra], partition_name=partition, timeout=30)
        self.milvus.delete(self.milvus_collection, filter=f'id == "{lost}"', timeout=30)

    def _cypher(self, query: str, **parameters: Any) -> None:
        self.neo4j.execute_query(query, prefix=self.prefix, **parameters)


@contextmanager
def open_stores(
    unique: str,
    mongo_settings: MongoSettings,
    shared_milvus_settings: MilvusSettings,
    neo4j_settings: Neo4jSettings,
    warehouse_dsn: str,
    folder: Path,
) -> Iterator[Stores]:
    """All stores agree, and nothing is left to recompute."""
    from neo4j import GraphDatabase
    from pymilvus import MilvusClient
    from pymongo import MongoClient

    settings = WarehouseSettings(warehouse_dsn)
    inventories: dict[str, Inventory] = {
        "mongo": MongoInventory(mongo_settings),
        "milvus": OwnUsers(MilvusInventory(shared_milvus_settings, GENERATION), unique),
        "neo4j": OwnUsers(Neo4jInventory(neo4j_settings), unique),
        "warehouse": WarehouseInventory(settings),
    }
    with ExitStack() as stack:
        for inventory in inventories.values():
            stack.callback(inventory.close)
        warehouse = stack.enter_context(closing(Warehouse(settings)))
        sinks: dict[str, Any] = {
            "mongo": MongoSink(mongo_settings),
            "milvus": MilvusSink(shared_milvus_settings, GENERATION, SHARDS),
            "neo4j": Neo4jSink(neo4j_settings),
            "warehouse": WarehouseSink(settings),
        }
        for sink in sinks.values():
            stack.callback(sink.close)
        compared = [ComparedStore(n, inventories[n], SINKS[n].needs, _contents(n, inventories[n])) for n in NAMES]
        writes = WritePorts(
            sinks, frozenset({"milvus"}), MemoryEmbedder(GENERATION), warehouse.text_vectors, warehouse.activity,
            warehouse.ledger,
        )  # fmt: skip
        mongo = stack.enter_context(MongoClient[Any](mongo_settings.uri))
        stores = Stores(
            unique, compared, writes, ArrowFiles(folder.as_uri()),
            mongo[mongo_settings.database][mongo_settings.collection],
            MilvusClient(shared_milvus_settings.uri, timeout=10),
            f"{shared_milvus_settings.message_collection}_{GENERATION.name}",
            stack.enter_context(GraphDatabase.driver(neo4j_settings.uri, auth=("neo4j", neo4j_settings.password))),
            warehouse,
        )  # fmt: skip
        stack.callback(stores.milvus.close)
        staged = batch_of([stores.event(number) for number in range(30)])
        for name in NAMES:
            writes.upsert(name, staged.events, replace(staged).ref)
        warehouse.database.execute("DELETE FROM pipeline.changed_users")
        yield stores


def _contents(name: str, inventory: Inventory) -> Any:
    return inventory if SINKS[name].needs is None else None
