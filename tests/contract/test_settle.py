"""Settling on real stores that cannot compare what they do not store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from include.domain.batch import BatchRef
from include.domain.event import Event
from include.pipeline.settle import SettlePorts, settle
from include.ports import Sink
from include.sinks.milvus import MilvusSink
from include.sinks.neo4j import Neo4jSink
from include.stores.memory_warehouse import MemoryWarehouse, MemoryWarehouseSink
from tests.contract.batches import GENERATION, SHARDS, batch_of, vector_of
from tests.contract.events import event

SERVERS = ("milvus", "neo4j")
REF = BatchRef("events", 0, 0, 10)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.servers(name)) for name in SERVERS])
def sink(request: pytest.FixtureRequest) -> Iterator[Sink]:
    """Each of the two stores in turn."""
    if request.param == "milvus":
        opened: Sink = MilvusSink(request.getfixturevalue("shared_milvus_settings"), GENERATION, SHARDS)
    else:
        opened = Neo4jSink(request.getfixturevalue("neo4j_settings"))
    with closing(opened):
        yield opened


@pytest.fixture
def warehouse() -> MemoryWarehouse:
    """An empty warehouse."""
    return MemoryWarehouse()


def _ports(sink: Sink, warehouse: MemoryWarehouse) -> SettlePorts:
    return SettlePorts(
        warehouse.stored_versions, warehouse.text_vectors, GENERATION, [(sink, isinstance(sink, MilvusSink))]
    )


def _bring(warehouse: MemoryWarehouse, *events: Event) -> None:
    """Store the events in the warehouse, and the vectors of their texts."""
    batch = batch_of(events)
    MemoryWarehouseSink(warehouse.tables).upsert(replace(batch, ref=REF))
    warehouse.text_vectors.put(GENERATION, batch.text_hashes, batch.vectors)


def test_a_loser_that_was_written_last_is_removed(sink: Sink, warehouse: MemoryWarehouse, unique: str) -> None:
    """The winner has neither text nor item to compare with; a neighbour that nobody changed stays."""
    before = sink.count()
    loser, stays = (event(user_id=unique, message_id=name, text=f"text {unique}", item_id=unique) for name in "ab")
    winner = event(user_id=unique, message_id="a", version=1, text=None, item_id=None, kind="message")
    _bring(warehouse, loser, stays)
    _bring(warehouse, winner)
    late = batch_of([loser, stays])
    sink.upsert(late)
    assert sink.count() == before + 2
    assert settle(REF, late.events, _ports(sink, warehouse)) == 1
    assert sink.count() == before + 1
    assert settle(REF, late.events, _ports(sink, warehouse)) == 1
    assert sink.count() == before + 1


def test_the_run_of_the_winner_removes_a_loser_that_came_meanwhile(
    sink: Sink, warehouse: MemoryWarehouse, unique: str
) -> None:
    """Its own rows are not outdated, but a range may have written an older one since."""
    before = sink.count()
    loser = event(user_id=unique, message_id="a", text=f"text {unique}", item_id=unique)
    winner = event(user_id=unique, message_id="a", version=1, text=None, item_id=None, kind="message")
    own = batch_of([winner])
    sink.upsert(own)
    sink.upsert(batch_of([loser]))
    assert sink.count() == before + 1
    _bring(warehouse, winner)
    assert settle(REF, own.events, _ports(sink, warehouse)) == 0
    assert sink.count() == before


def test_a_winner_without_a_vector_is_left_to_its_own_run(sink: Sink, warehouse: MemoryWarehouse, unique: str) -> None:
    """The warehouse may have an event before its text is embedded: then Milvus gets it later, and nothing fails."""
    loser = event(user_id=unique, message_id="a", text=f"text {unique}", item_id=unique)
    winner = event(user_id=unique, message_id="a", version=1, text=f"newer {unique}", item_id=unique)
    _bring(warehouse, loser)
    late = batch_of([loser])
    sink.upsert(late)
    count = sink.count()
    MemoryWarehouseSink(warehouse.tables).upsert(replace(batch_of([winner]), ref=REF))
    assert settle(REF, late.events, _ports(sink, warehouse)) == 1
    assert sink.count() == count
    warehouse.text_vectors.put(GENERATION, [winner.text_hash or ""], vector_of(winner.text or "")[None])
    assert settle(REF, late.events, _ports(sink, warehouse)) == 1
    assert sink.count() == count
