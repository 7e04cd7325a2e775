"""The inventories: what every store has, in order of event id; one suite in memory and on the servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from include.bootstrap import SINKS
from include.domain.batch import EVENT_SCHEMA
from include.domain.event import Event, decode
from include.domain.inventory import INVENTORY_SCHEMA, InventoryRow, inventory_rows
from include.memory_servers import MemoryServers
from include.ports import Contents, Inventory, Sink
from include.settings import MilvusSettings, MongoSettings, Neo4jSettings, WarehouseSettings
from include.stores.inventory import milvus, mongo, neo4j, warehouse
from include.stores.inventory.memory import MemoryInventory
from tests.contract.batches import GENERATION, SHARDS, batch_of

_ODD_FIELDS = (
    b'"$where":{"a.b":[1,2.5,true,1.0,-0.0,1e308,{"$gt":""}]},"\xef\xbc\x84":9223372036854775807,"":{"":[]},"n":-5'
)


@dataclass(frozen=True)
class StoreUnderTest:
    """A sink with its inventory. Other tests may have rows there too; the users of this one start with ``prefix``."""

    name: str
    sink: Sink
    inventory: Inventory
    prefix: str

    @property
    def contents(self) -> Contents:
        assert SINKS[self.name].needs is None
        return self.inventory  # type: ignore[return-value]

    def store(self, events: Sequence[Event]) -> None:
        self.sink.upsert(batch_of(events))

    def own(self, chunks: Iterator[pa.Table]) -> dict[str, InventoryRow]:
        """The rows of this test; checks that all rows come in order."""
        last, own = "", {}
        for chunk in chunks:
            assert chunk.schema == INVENTORY_SCHEMA
            assert chunk.num_rows
            for event_id, row in inventory_rows(chunk):
                assert event_id > last
                last = event_id
                if row.user_id.startswith(self.prefix):
                    own[event_id] = row
        return own


def _memory(name: str) -> Callable[[pytest.FixtureRequest, Any], tuple[Sink, Inventory]]:
    def open_memory(request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> tuple[Sink, Inventory]:
        servers, spec = MemoryServers(), SINKS[name]
        inventory = MemoryInventory(lambda: servers.rows(name).values(), is_full=spec.needs is None, chunk=7)
        return servers.open_sink(name, spec.needs, spec.needs_vectors), inventory

    return open_memory


def _mongo(request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> tuple[Sink, Inventory]:
    from include.sinks.mongo import MongoSink

    patch.setattr(mongo, "CHUNK", 7)
    settings: MongoSettings = request.getfixturevalue("mongo_settings")
    return MongoSink(settings), mongo.MongoInventory(settings)


def _milvus(request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> tuple[Sink, Inventory]:
    from include.sinks.milvus import MilvusSink

    patch.setattr(milvus, "ROWS_PER_QUERY", 7)
    settings: MilvusSettings = request.getfixturevalue("shared_milvus_settings")
    return MilvusSink(settings, GENERATION, SHARDS), milvus.MilvusInventory(settings, GENERATION)


def _neo4j(request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> tuple[Sink, Inventory]:
    from include.sinks.neo4j import Neo4jSink

    settings: Neo4jSettings = request.getfixturevalue("neo4j_settings")
    return Neo4jSink(settings), neo4j.Neo4jInventory(settings)


def _warehouse(request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> tuple[Sink, Inventory]:
    from include.sinks.warehouse import WarehouseSink

    patch.setattr(warehouse, "CHUNK", 7)
    settings = WarehouseSettings(request.getfixturevalue("warehouse_dsn"))
    return WarehouseSink(settings), warehouse.WarehouseInventory(settings)


_STORES = [
    *(pytest.param((name, _memory(name)), id=f"memory-{name}") for name in SINKS),
    pytest.param(("mongo", _mongo), id="mongo", marks=pytest.mark.servers("mongo")),
    pytest.param(("milvus", _milvus), id="milvus", marks=pytest.mark.servers("milvus")),
    pytest.param(("neo4j", _neo4j), id="neo4j", marks=pytest.mark.servers("neo4j")),
    pytest.param(("warehouse", _warehouse), id="warehouse", marks=pytest.mark.servers("postgres")),
]


def _open(request: pytest.FixtureRequest, unique: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreUnderTest]:
    name, open_store = request.param
    sink, inventory = open_store(request, monkeypatch)
    with closing(sink), closing(inventory):
        yield StoreUnderTest(name, sink, inventory, unique)


store = pytest.fixture(params=_STORES)(_open)
full_store = pytest.fixture(params=[each for each in _STORES if SINKS[each.values[0][0]].needs is None])(_open)  # type: ignore[index]


def _events(prefix: str, number: int = 40) -> list[Event]:
    return [
        Event(
            user_id=f"{prefix}{n % 5}",
            message_id=f"m{n}",
            kind="view",
            occurred_at=(-1) ** n * n * 1_000_001,
            text=f"text {n}",
            item_id=f"{prefix} item",
            version=n,
        )
        for n in range(number)
    ]


def _row(event: Event, *, is_full: bool) -> InventoryRow:
    has = (event.text is not None, event.item_id is not None) if is_full else (None, None)
    return InventoryRow(event.user_id, event.occurred_at, event.version, event.digest, *has)


def test_a_scan_returns_every_event_in_order(store: StoreUnderTest) -> None:
    """In chunks, in order of event id, with what identifies the content; also from any event on."""
    events = _events(store.prefix)
    store.store(events)
    is_full = SINKS[store.name].needs is None
    expected = {event.event_id: _row(event, is_full=is_full) for event in events}
    assert store.own(store.inventory.scan()) == expected
    after = sorted(expected)[17]
    assert store.own(store.inventory.scan(after)) == {key: row for key, row in expected.items() if key > after}


def test_events_are_read_by_their_keys(store: StoreUnderTest) -> None:
    """Those that the store has; the others are left out."""
    events = _events(store.prefix, 12)
    store.store(events[:10])
    pairs = [(event.event_id, event.user_id) for event in events[5:]]
    keys = pa.table({"event_id": [pair[0] for pair in pairs], "user_id": [pair[1] for pair in pairs]})
    is_full = SINKS[store.name].needs is None
    read = dict(inventory_rows(store.inventory.read(keys)))
    assert read == {event.event_id: _row(event, is_full=is_full) for event in events[5:10]}
    assert store.inventory.read(keys.slice(0, 0)).num_rows == 0


def test_whole_events_come_back_exactly(full_store: StoreUnderTest) -> None:
    """Every field is what it was, unknown fields and digest included, so that another store can be filled with them."""
    messages = [
        b'{"user_id":"%su","message_id":"m%d","kind":"view","occurred_at":"2026-11-23T10:00:00.123Z",%s}'
        % (full_store.prefix.encode(), number, fields)
        for number, fields in enumerate([b'"text":"t"', b'"item_id":"i","value":1,"campaign_id":"c"', _ODD_FIELDS])
    ]
    events = [decode(message) for message in messages]
    full_store.store(events)
    names = [name for name in EVENT_SCHEMA.names if name not in ("offset", "published_at", "replaces")]
    expected = batch_of(events).events.select(names).sort_by("event_id").to_pylist()
    tables = list(full_store.contents.scan_contents())
    assert all(table.schema == EVENT_SCHEMA for table in tables)
    assert pa.concat_tables(tables).select(names).to_pylist() == expected
    assert pa.concat_tables(tables)["replaces"].to_pylist() == [True] * 3
    keys = tables[0].select(["event_id", "user_id"]).slice(0, 1)
    (read,) = full_store.contents.read_contents(keys).select(names).to_pylist()
    assert read in expected


@pytest.mark.servers("milvus")
def test_a_collection_that_does_not_exist_has_no_events(milvus_settings: MilvusSettings) -> None:
    """It was lost, or nothing was ever stored."""
    with closing(milvus.MilvusInventory(milvus_settings, GENERATION)) as inventory:
        assert list(inventory.scan()) == []


@pytest.mark.servers("milvus")
def test_milvus_returns_more_rows_than_one_limited_query_may(
    shared_milvus_settings: MilvusSettings, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range of ids may have more than the 16,384 rows that a query with a limit returns."""
    from include.sinks.milvus import MilvusSink

    events = _events(unique, 17_000)
    with (
        closing(MilvusSink(shared_milvus_settings, GENERATION, SHARDS)) as sink,
        closing(milvus.MilvusInventory(shared_milvus_settings, GENERATION)) as inventory,
    ):
        sink.upsert(batch_of(events))
        monkeypatch.setattr(milvus, "ROWS_PER_QUERY", 10**9)
        (table,) = inventory.scan()
    assert {event.event_id for event in events} <= set(table["event_id"].to_pylist())
