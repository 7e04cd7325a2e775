"""The Graph port, in memory and on Neo4j, over what the sinks have stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest

from include.domain.event import Event
from include.domain.ranking import Engagements
from include.ports import Graph, Sink
from include.settings import Neo4jSettings
from tests.contract.batches import batch_of
from tests.contract.test_sinks import ODD_IDS


@dataclass(frozen=True)
class Subject:
    """A graph, the sink that fills it, and a prefix for the ids of this test."""

    graph: Graph
    sink: Sink
    prefix: str

    def engage(self, *engagements: tuple[str, str, int, str]) -> None:
        """(user, item, at, kind) each."""
        self.sink.upsert(batch_of([self._event(number, *each) for number, each in enumerate(engagements)]))

    def _event(self, number: int, user: str, item: str, at: int, kind: str) -> Event:
        return Event(
            user_id=self.prefix + user,
            message_id=f"{number}",
            kind=kind,
            occurred_at=at,
            item_id=self.prefix + item,
        )

    def read(self, users: Sequence[str], limit: int = 100) -> dict[str, list[tuple[str, int, float]]]:
        """(item, at, weight) by user, latest first as the graph gives them."""
        found = self.graph.engagements([self.prefix + user for user in users], limit)
        return _as_dict(found, len(self.prefix))


def _as_dict(found: Engagements, cut: int) -> dict[str, list[tuple[str, int, float]]]:
    by_user: dict[str, list[tuple[str, int, float]]] = {user[cut:]: [] for user in found.users}
    for user, item, at, weight in zip(found.user_index, found.item_index, found.at, found.weight, strict=True):
        by_user[found.users[user][cut:]].append((found.items[item][cut:], int(at), float(weight)))
    return by_user


@pytest.fixture(params=["memory", pytest.param("neo4j", marks=pytest.mark.servers("neo4j"))])
def subject(request: pytest.FixtureRequest, unique: str) -> Iterator[Subject]:
    """A graph with nothing of this test in it."""
    if request.param == "memory":
        from include.sinks.memory import MemorySink
        from include.stores.memory_graph import MemoryGraph

        memory = MemorySink("neo4j", "item_id")
        yield Subject(MemoryGraph(memory.rows), memory, unique)
    else:
        from include.sinks.neo4j import Neo4jSink
        from include.stores.neo4j import Neo4jGraph

        settings: Neo4jSettings = request.getfixturevalue("neo4j_settings")
        with closing(Neo4jSink(settings)) as sink, closing(Neo4jGraph(settings)) as graph:
            yield Subject(graph, sink, unique)


def test_engagements_are_the_last_time_and_the_greatest_weight_of_each_item(subject: Subject) -> None:
    """Many events of a user with an item are one entry."""
    subject.engage(("u", "i", 10, "purchase"), ("u", "i", 30, "view"), ("u", "j", 20, "click"), ("v", "i", 5, "return"))
    assert subject.read(["u", "v"]) == {"u": [("i", 30, 1.0), ("j", 20, 0.4)], "v": [("i", 5, 0.0)]}


def test_only_the_latest_items_of_each_user_are_read(subject: Subject) -> None:
    """The limit is a user's own; items of one time are taken by id."""
    subject.engage(*[("u", f"i{n}", 100 - n // 2, "view") for n in range(8)], ("v", "i7", 1, "view"))
    found = subject.read(["u", "v"], limit=3)
    assert [item for item, _, _ in found["u"]] == ["i0", "i1", "i2"]
    assert [item for item, _, _ in found["v"]] == ["i7"]


def test_users_without_an_engagement_are_left_out(subject: Subject) -> None:
    """Neither unknown users nor nobody at all is an error."""
    subject.engage(("u", "i", 1, "view"))
    assert subject.read(["nobody", "u"]).keys() == {"u"}
    assert subject.read(["nobody"]) == {}
    assert subject.read([]) == {}


def test_ids_come_out_unchanged(subject: Subject) -> None:
    """Quotes, backticks and every plane of Unicode are characters of an id and nothing else."""
    ids = [odd[:100] for odd in ODD_IDS]
    subject.engage(*[(odd, odd, 1, "like") for odd in ids])
    assert subject.read(ids) == {odd: [(odd, 1, 1.0)] for odd in ids}


def test_many_users_are_read_whole(subject: Subject) -> None:
    """What is split into several queries arrives whole, every index in its place."""
    engagements = [(f"u{n % 1_300}", f"i{n % 7}", n, "purchase") for n in range(4_000)]
    subject.engage(*engagements)
    last = {(user, item): at for user, item, at, _ in engagements}
    found = subject.read([f"u{n}" for n in range(1_300)])
    assert {(user, item): at for user, items in found.items() for item, at, _ in items} == last
