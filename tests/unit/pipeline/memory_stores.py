"""Every store of events in memory, as reconcile and rebuild see them."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from include.bootstrap import SINKS
from include.domain.batch import EVENT_SCHEMA, BatchRef
from include.domain.event import Event
from include.embedders.memory import MemoryEmbedder
from include.errors import StagedBatchMissingError
from include.memory_servers import MemoryServers
from include.pipeline.compare import ComparedStore
from include.pipeline.reconcile import ReconcilePorts, Report, Scope, reconcile
from include.pipeline.repair import Repairer, WritePorts, claim_writes
from include.stores.inventory.memory import MemoryInventory
from tests.contract.batches import GENERATION, batch_of
from tests.contract.events import event
from tests.unit.pipeline.histories import TableDict

STORES = tuple(SINKS)
FULL = ("mongo", "warehouse")
TOPIC = "events"
SCOPE = Scope(TOPIC, shards=4, wait_s=10)


class Files(TableDict):
    """``ports.BatchStore``, in which a file may be missing."""

    def read(self, name: str) -> pa.Table:
        if name not in self:
            raise StagedBatchMissingError(name)
        return self[name]


@dataclass
class Stores:
    """Every store in memory, and a clock that only sleeping moves."""

    servers: MemoryServers
    files: Files
    now: float = 0.0

    def __post_init__(self) -> None:
        warehouse = self.servers.warehouse
        self.sinks = {
            name: self.servers.open_sink(name, spec.needs, spec.needs_vectors) for name, spec in SINKS.items()
        }
        self.compared = [self._compared(name) for name in STORES]
        self.writes = WritePorts(
            self.sinks,
            frozenset({"milvus"}),
            MemoryEmbedder(GENERATION),
            warehouse.text_vectors,
            warehouse.activity,
            warehouse.ledger,
        )
        self.ports = ReconcilePorts(self.compared, warehouse.ledger, self.files, lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _compared(self, name: str) -> ComparedStore:
        inventory = MemoryInventory(lambda: self.rows(name).values(), is_full=name in FULL, chunk=3)
        return ComparedStore(name, inventory, SINKS[name].needs, inventory if name in FULL else None)

    def rows(self, name: str) -> MutableMapping[Any, Any]:
        return self.servers.rows(name)  # type: ignore[return-value]

    def key(self, name: str, event: Event) -> Any:
        return (event.user_id, event.message_id) if name == "warehouse" else event.event_id

    def fill(self, events: list[Event]) -> None:
        """Ingest the events; nothing is left to recompute."""
        for name in STORES:
            self.writes.upsert(name, batch_of(events).events, REF)
        self.servers.warehouse.tables.changed_users.clear()

    def contents(self) -> dict[str, Any]:
        """What each store has of each event, without bookkeeping."""
        names = [name for name in EVENT_SCHEMA.names if name not in ("offset", "published_at", "replaces")]
        return {
            store: {key: {name: row[name] for name in names} for key, row in self.rows(store).items()}
            for store in STORES
        }

    def reconcile(self, scope: Scope = SCOPE) -> Report:
        return reconcile(scope, self.ports)

    def repair(self, scope: Scope = SCOPE) -> Report:
        with claim_writes("reconcile", self.writes.ledger) as ref:
            return reconcile(scope, self.ports, repair=Repairer(self.compared, self.writes, ref).repair)

    def changed_users(self) -> set[str]:
        return {mark.key for mark in self.servers.warehouse.activity.read_changed_users()}


REF = BatchRef(TOPIC, 0, 0, 0)
EVENTS = [
    event(
        user_id=f"u{n % 7}",
        message_id=f"m{n}",
        occurred_at=n * 1_000_000,
        text=f"text {n % 3}" if n % 4 else None,
        item_id=f"i{n % 5}" if n % 3 or not n % 4 else None,
    )
    for n in range(24)
]  # fmt: skip


def new_stores(events: list[Event] = EVENTS) -> Stores:
    stores = Stores(MemoryServers(), Files())
    stores.fill(events)
    return stores
