"""An event that a real server refuses is found among others, which are stored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include.domain.event import Event
from include.domain.reasons import refused_by
from include.domain.refusal import Refusal
from include.errors import RefusedEventsError
from include.pipeline.embed import vectors_table
from include.pipeline.files import events_file, vectors_file
from include.pipeline.upsert import UpsertPorts, upsert
from include.ports import Ledger, Sink
from include.settings import WarehouseSettings
from include.sinks.milvus import MilvusSink
from include.sinks.mongo import MongoSink
from include.sinks.neo4j import Neo4jSink
from include.sinks.warehouse import WarehouseSink
from include.stores.files import ArrowFiles
from include.stores.memory_tables import MemoryTables
from include.stores.memory_warehouse import MemoryLedger
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.batches import GENERATION, SHARDS, batch_of, vector_of

#: Longer than a field of Milvus, and than a key of an index in Neo4j and PostgreSQL, which must not compress it.
LONG = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9_000))
#: What each store refuses. The validation accepts no such event: a refusal is the last line of defence.
POISON: dict[str, dict[str, Any]] = {
    "mongo": {"text": "x" * 17 * 2**20},
    "milvus": {"user_id": LONG},
    "neo4j": {"item_id": LONG},
    "warehouse": {"message_id": LONG},
}


@dataclass(frozen=True)
class Store:
    """A store without any event of this test, and the ports of its upsert."""

    sink: Sink
    ports: UpsertPorts
    prefix: str

    def event(self, number: int, **fields: Any) -> Event:
        defaults = {"user_id": f"{self.prefix}{number}", "text": f"text {number}", "item_id": f"{self.prefix}i"}
        return Event(**{"message_id": "m", "kind": "view", "occurred_at": 1, **defaults, **fields})

    def upsert(self, events: list[Event]) -> int:
        """Stage and store a batch of these events."""
        batch = batch_of(events)
        ref = self.ports.ledger.claim_range(batch.ref)
        vectors = {event.text_hash: vector_of(event.text) for event in events if event.text and event.text_hash}
        self.ports.files.write(events_file(ref), batch.events)
        self.ports.files.write(vectors_file(ref), vectors_table(vectors, GENERATION))
        return upsert(ref, self.ports)


@contextmanager
def _open(name: str, request: pytest.FixtureRequest) -> Iterator[tuple[Sink, Ledger]]:
    """The sink, and the ledger; the warehouse looks up claims in its own."""
    ledger: Ledger = MemoryLedger(MemoryTables())
    if name == "mongo":
        sink: Sink = MongoSink(request.getfixturevalue("mongo_settings"))
    elif name == "milvus":
        sink = MilvusSink(request.getfixturevalue("shared_milvus_settings"), GENERATION, SHARDS)
    elif name == "neo4j":
        sink = Neo4jSink(request.getfixturevalue("neo4j_settings"))
    else:
        settings = WarehouseSettings(request.getfixturevalue("warehouse_dsn"))
        sink = WarehouseSink(settings)
        with closing(sink), closing(Warehouse(settings)) as warehouse:
            yield sink, warehouse.ledger
        return
    with closing(sink):
        yield sink, ledger


SERVERS = {"mongo": "mongo", "milvus": "milvus", "neo4j": "neo4j", "warehouse": "postgres"}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.servers(server)) for name, server in SERVERS.items()])
def store(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[Store]:
    """Each store in turn."""
    with _open(request.param, request) as (sink, ledger):
        generation = GENERATION if request.param == "milvus" else None
        yield Store(sink, UpsertPorts(ArrowFiles(tmp_path.as_uri()), sink, generation, ledger), unique)


def test_only_the_refused_event_is_left_out(store: Store) -> None:
    """It is recorded with the store's name, and its neighbours are stored; the error quotes nothing of it."""
    name, before = store.sink.name, store.sink.count()
    poison = store.event(3, **POISON[name])
    events = [store.event(number) for number in range(7)]
    with pytest.raises(RefusedEventsError, match=rf"{name} refuses 1 of 7 events.*{refused_by(name)}") as error:
        store.upsert([*events[:3], poison, *events[4:]])
    assert len(str(error.value)) < 500
    (refusal,) = store.ports.ledger.read_refused(batch_of(events).ref)
    assert refusal == Refusal(poison.event_id, poison.user_id, poison.version, poison.digest, name)
    assert store.sink.count() - before == 6
