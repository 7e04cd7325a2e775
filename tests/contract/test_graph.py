"""The Graph port, in memory and on Neo4j, reading what the sinks wrote."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest

from include.domain.event import Event
from include.domain.ranking import Engagements
from include.ports import Graph, Sink
from include.settings import Neo4jSettings
from tests.contract.batches import batch_of
from tests.contract.sink_suite import ODD_IDS


@dataclass(frozen=True)
class Subject:
    """A graph, the sink that fills it, and a prefix for the ids of this test."""

    graph: Graph
    sink: Sink
    prefix: str

    def engage(self, *engagements: tuple[str, str, int, str]) -> None:
        """Store one event for each (user, item, time, kind)."""
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
        """(item, time, weight) by user, in the order of the graph's result."""
        engagements = self.graph.read_engagements([self.prefix + user for user in users], limit)
        return _as_dict(engagements, len(self.prefix))


def _as_dict(engagements: Engagements, prefix_length: int) -> dict[str, list[tuple[str, int, float]]]:
    users = [user[prefix_length:] for user in engagements.users]
    items = [item[prefix_length:] for item in engagements.items]
    by_user: dict[str, list[tuple[str, int, float]]] = {user: [] for user in users}
    columns = (engagements.user_index, engagements.item_index, engagements.at, engagements.weight)
    for user, item, at, weight in zip(*columns, strict=True):
        by_user[users[user]].append((items[item], int(at), float(weight)))
    return by_user


@pytest.fixture(params=["memory", pytest.param("neo4j", marks=pytest.mark.servers("neo4j"))])
def subject(request: pytest.FixtureRequest, unique: str) -> Iterator[Subject]:
    """A graph without any data of this test."""
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


def test_an_engagement_has_the_latest_time_and_the_greatest_weight(subject: Subject) -> None:
    """All events of a user with the same item form one engagement."""
    subject.engage(("u", "i", 10, "purchase"), ("u", "i", 30, "view"), ("u", "j", 20, "click"), ("v", "i", 5, "return"))
    assert subject.read(["u", "v"]) == {"u": [("i", 30, 1.0), ("j", 20, 0.4)], "v": [("i", 5, 0.0)]}


def test_only_the_latest_items_of_each_user_are_read(subject: Subject) -> None:
    """The limit applies per user; items with the same time are ordered by id."""
    subject.engage(*[("u", f"i{n}", 100 - n // 2, "view") for n in range(8)], ("v", "i7", 1, "view"))
    engagements = subject.read(["u", "v"], limit=3)
    assert [item for item, _, _ in engagements["u"]] == ["i0", "i1", "i2"]
    assert [item for item, _, _ in engagements["v"]] == ["i7"]


def test_users_without_engagements_are_omitted(subject: Subject) -> None:
    """Unknown users and an empty list of users are not errors."""
    subject.engage(("u", "i", 1, "view"))
    assert subject.read(["nobody", "u"]).keys() == {"u"}
    assert subject.read(["nobody"]) == {}
    assert subject.read([]) == {}


def test_ids_are_returned_unchanged(subject: Subject) -> None:
    """Quotes, backticks and any Unicode characters are plain text in an id."""
    ids = [odd[:100] for odd in ODD_IDS]
    subject.engage(*[(odd, odd, 1, "like") for odd in ids])
    assert subject.read(ids) == {odd: [(odd, 1, 1.0)] for odd in ids}


def test_many_users_are_read_completely(subject: Subject) -> None:
    """The results of several queries are merged with correct indexes."""
    events = [(f"u{n % 1_300}", f"i{n % 7}", n, "purchase") for n in range(4_000)]
    subject.engage(*events)
    latest = {(user, item): at for user, item, at, _ in events}
    engagements = subject.read([f"u{n}" for n in range(1_300)])
    assert {(user, item): at for user, items in engagements.items() for item, at, _ in items} == latest


@pytest.mark.servers("neo4j")
def test_a_replica_is_read_only_once_it_has_every_earlier_write(
    neo4j_settings: Neo4jSettings, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each read asks for the bookmark of the last write, of whichever process, which a replica waits for."""
    from include.sinks.neo4j import Neo4jSink
    from include.stores.neo4j import Neo4jGraph

    with closing(Neo4jSink(neo4j_settings)) as sink, closing(Neo4jGraph(neo4j_settings)) as graph:
        subject = Subject(graph, sink, unique)
        with caplog.at_level(logging.DEBUG, "neo4j.io"):
            for user in ("u", "v"):
                subject.engage((user, "i", 1, "view"))
                written = _bookmarks(caplog.messages, "S: SUCCESS", "bookmark")[-1]
                caplog.clear()
                assert subject.read([user]) == {user: [("i", 1, 0.2)]}
                (waited_for,) = _bookmarks(_reads(caplog.messages), "C: BEGIN", "bookmarks")
                assert waited_for >= written


def _reads(messages: Sequence[str]) -> list[str]:
    return [message for message in messages if "'mode': 'r'" in message]


def _bookmarks(messages: Sequence[str], kind: str, field: str) -> list[tuple[int, bytes]]:
    """The bookmarks in the driver's log of messages from the client (C) or the server (S), comparable by age.

    A bookmark ends with the number of its transaction, which is longer the greater it is. The server has transactions
    of its own too, so it may be later than the last write.
    """
    pattern = re.compile(rf"{kind} .*'{field}': \[?'FB:([^']+)'")
    decoded = [base64.b64decode(found[1] + "==") for found in map(pattern.search, messages) if found]
    return [(len(each), each) for each in decoded]
