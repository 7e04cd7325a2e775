"""The composition root of reconcile and rebuild: which inventory belongs to which sink.

Drivers are imported inside the functions, as in ``bootstrap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from include import bootstrap
from include.bootstrap import SINKS
from include.errors import PermanentError
from include.memory_servers import memory_servers
from include.pipeline.compare import ComparedStore
from include.pipeline.positions import MessageCounts, ShardPosition, read_positions
from include.pipeline.reconcile import ReconcilePorts, Report, Scope, reconcile
from include.pipeline.repair import Repairer, WritePorts, claim_writes
from include.ports import Contents, Inventory
from include.settings import MEMORY_SCHEME, Settings

if TYPE_CHECKING:
    from include.stores.inventory.memory import MemoryInventory


def _open_mongo(settings: Settings) -> Inventory:
    from include.stores.inventory.mongo import MongoInventory

    return MongoInventory(settings.mongo)


def _open_milvus(settings: Settings) -> Inventory:
    from include.stores.inventory.milvus import MilvusInventory

    return MilvusInventory(settings.milvus, settings.embed.generation)


def _open_neo4j(settings: Settings) -> Inventory:
    from include.stores.inventory.neo4j import Neo4jInventory

    return Neo4jInventory(settings.neo4j)


def _open_warehouse(settings: Settings) -> Inventory:
    from include.stores.inventory.warehouse import WarehouseInventory

    return WarehouseInventory(settings.warehouse)


@dataclass(frozen=True)
class _Source:
    """How the inventory of a sink is opened, and whether it has the full contents."""

    open: Callable[[Settings], Inventory]
    has_contents: bool = False


#: The stores that are compared, by the name of their sink. No other sink is compared or rebuilt from.
_INVENTORIES: Mapping[str, _Source] = {
    "mongo": _Source(_open_mongo, has_contents=True),
    "milvus": _Source(_open_milvus),
    "neo4j": _Source(_open_neo4j),
    "warehouse": _Source(_open_warehouse, has_contents=True),
}

#: How long the daily task waits for batches in progress.
_TASK_WAIT_S = 900.0

#: The stores that a rebuild can read from.
FULL_STORES: Sequence[str] = tuple(name for name, source in _INVENTORIES.items() if source.has_contents)


@contextmanager
def open_stores(settings: Settings) -> Iterator[Sequence[ComparedStore]]:
    """Every store of events, for comparison."""
    with ExitStack() as stack:
        stores = []
        for name, source in _INVENTORIES.items():
            inventory = stack.enter_context(closing(open_inventory(name, settings)))
            contents = cast(Contents, inventory) if source.has_contents else None
            stores.append(ComparedStore(name, inventory, SINKS[name].needs, contents))
        yield stores


@contextmanager
def open_contents(name: str, settings: Settings) -> Iterator[Contents]:
    """One of FULL_STORES, to read whole events from."""
    with closing(cast(Contents, open_inventory(name, settings))) as contents:
        yield contents


@contextmanager
def open_write_ports(names: Sequence[str], settings: Settings) -> Iterator[WritePorts]:
    """Write whole events to these sinks."""
    with ExitStack() as stack:
        warehouse = stack.enter_context(closing(bootstrap.open_pipeline_warehouse(settings)))
        yield WritePorts(
            sinks={name: stack.enter_context(closing(bootstrap.open_sink(name, settings))) for name in names},
            vectors_for=frozenset(name for name in names if SINKS[name].needs_vectors),
            embedder=stack.enter_context(closing(bootstrap.open_embedder(settings))),
            text_vectors=warehouse.text_vectors,
            activity=warehouse.activity,
            ledger=warehouse.ledger,
        )


def reconcile_stores(
    settings: Settings, scope: Scope, *, repair: bool = False, progress: Callable[[int], None] = lambda events: None
) -> Report:
    """Compare the stores, and repair them if asked to."""
    with open_stores(settings) as stores, closing(bootstrap.open_pipeline_warehouse(settings)) as warehouse:
        ports = ReconcilePorts(
            stores, warehouse.ledger, bootstrap.open_files(settings), find_expired=warehouse.expiry.find
        )
        if not repair:
            return reconcile(scope, ports, progress=progress)
        with (
            open_write_ports([store.name for store in stores], settings) as writes,
            claim_writes("reconcile", writes.ledger) as ref,
        ):
            return reconcile(scope, ports, repair=Repairer(stores, writes, ref).repair, progress=progress)


def require_equal(settings: Settings) -> dict[str, int]:
    """Compare every event and position. Returns counts.

    Raises ``PermanentError`` if anything differs: that is what the daily task shows to an operator.
    """
    shards, topic = settings.pipeline.shards, settings.kafka.topic
    wrong = [f"shard {each.shard}: {each.problem}" for each in find_positions(settings) if each.problem]
    counts = count_messages(settings)
    wrong += [counts.problem] if counts is not None and counts.problem else []
    report = reconcile_stores(settings, Scope(topic, shards, wait_s=_TASK_WAIT_S))
    if wrong:
        raise PermanentError(f"the ledger does not agree with {topic}: {'; '.join(wrong)}; see docs/reconcile.md")
    if report.found:
        differences = ", ".join(
            f"{number:,} {problem} in {store}" for (store, problem), number in report.problems().items()
        )
        raise PermanentError(
            f"{report.found:,} of {report.events:,} events differ between the stores ({differences}): "
            "run python -m include.cli reconcile --repair"
        )
    return {"events": report.events, "in_flight": report.in_flight}


def find_positions(settings: Settings) -> Sequence[ShardPosition]:
    """The position of every shard."""
    with (
        closing(bootstrap.open_source(settings)) as source,
        closing(bootstrap.open_pipeline_warehouse(settings)) as warehouse,
    ):
        return list(read_positions(settings.kafka.topic, settings.pipeline.shards, source, warehouse.ledger))


def count_messages(settings: Settings) -> MessageCounts | None:
    """What the ledger counts; None for a warehouse in memory, which has no statistics."""
    if settings.warehouse.dsn.startswith(MEMORY_SCHEME):
        return None
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        totals = warehouse.stats.read_totals(settings.kafka.topic)
    return MessageCounts(totals.delivered, totals.valid, sum(totals.dead_letters.values()))


def open_inventory(name: str, settings: Settings) -> Inventory:
    """What one store has. The caller closes it."""
    address = SINKS[name].address(settings)
    return _open_memory(name, address) if address.startswith(MEMORY_SCHEME) else _INVENTORIES[name].open(settings)


def _open_memory(name: str, address: str) -> MemoryInventory:
    from include.stores.inventory.memory import MemoryInventory

    servers = memory_servers(address)
    return MemoryInventory(lambda: servers.rows(name).values(), is_full=_INVENTORIES[name].has_contents)
