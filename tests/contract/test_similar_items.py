"""The SimilarItems port, in memory and on Neo4j."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from include.ports import SimilarItems, Sink
from include.sinks.memory import MemorySink
from include.sinks.neo4j import Neo4jSink
from include.stores import neo4j_similar
from include.stores.memory_graph import MemorySimilarItems
from include.stores.neo4j_similar import Neo4jSimilarItems
from tests.contract.batches import batch_of
from tests.contract.events import event

type Opened = tuple[SimilarItems, Callable[[str], str]]


@pytest.fixture(params=["memory", pytest.param("neo4j", marks=pytest.mark.servers("neo4j"))])
def opened(request: pytest.FixtureRequest, unique: str) -> Iterator[Opened]:
    """The port, and the id of an item of this test; items a to d have been engaged with."""

    def name(item: str) -> str:
        return unique + item

    def engage(sink: Sink) -> None:
        sink.upsert(batch_of([event(user_id=unique, message_id=item, item_id=name(item)) for item in "abcd"]))

    if request.param == "memory":
        memory = MemorySink("neo4j", "item_id")
        engage(memory)
        yield MemorySimilarItems(memory.rows), name
    else:
        settings = request.getfixturevalue("neo4j_settings")
        with closing(Neo4jSink(settings)) as sink, closing(Neo4jSimilarItems(settings)) as similar:
            engage(sink)
            yield similar, name


def test_the_strongest_come_first(opened: Opened) -> None:
    """Up to the limit, ties by id; an item that nobody has engaged with is left out."""
    similar, name = opened
    rows = [("a", "b", 0.1), ("a", "d", 0.5), ("a", "c", 0.5), ("b", "a", 1.0), ("a", "unknown", 9.0)]
    assert similar.replace("v1", [(name(item), name(other), weight) for item, other, weight in rows]) == 4
    assert similar.find(name("a"), 2) == [(name("c"), 0.5), (name("d"), 0.5)]
    assert similar.find(name("b"), 10) == [(name("a"), 1.0)]
    assert similar.find(name("c"), 10) == []


def test_a_new_version_replaces_everything(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does not have is gone, however much there is; storing it twice changes nothing."""
    monkeypatch.setattr(neo4j_similar, "_CHUNK", 2)
    similar, name = opened
    pairs = [(name(item), name(other), 0.5) for item in "abcd" for other in "abcd" if item != other]
    assert similar.replace("v1", pairs) == 12
    for _ in range(2):
        assert similar.replace("v2", [(name("a"), name("b"), 0.25)]) == 1
        assert similar.find(name("a"), 10) == [(name("b"), 0.25)]
        assert similar.find(name("b"), 10) == []
    assert similar.replace("v3", []) == 0
    assert similar.find(name("a"), 10) == []
