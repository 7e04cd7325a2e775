"""Every sink, in memory and on its server, by one suite. (The warehouse's is in test_warehouse.py.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest

from include.domain.event import Event
from include.errors import TransientError
from include.ports import Sink
from include.settings import MilvusSettings, MongoSettings, Neo4jSettings
from tests.contract.batches import GENERATION, SHARDS, batch_of, newest
from tests.contract.probes import Found, MemoryProbe, MilvusProbe, MongoProbe, Neo4jProbe, Probe, Stored

#: What an event must have for the store to keep it, by the sink's name.
NEEDS = {"mongo": None, "milvus": "text", "neo4j": "item_id"}
STORES = [
    *(f"memory {name}" for name in NEEDS),
    *(pytest.param(name, marks=pytest.mark.servers(name)) for name in NEEDS),
]

ODD_IDS = [
    'x" or 1==1 or "', "a'b", "back\\slash", '\\"', "line\nbreak\r\ttab", "{$ne: ''}", "`) DETACH DELETE u //",
    "你好", "e\u0301", "é", "\u2028", "\x01\x7f", " ", "😀" * 128, "$where", "a.b", "__proto__",
]  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A sink with nothing of this test in it, and what it holds."""

    sink: Sink
    probe: Probe
    prefix: str
    #: The field that the store needs, None if it keeps every event.
    needs: str | None
    keeps_items: bool

    def event(self, message: str = "m", *, user: str = "u", **fields: Any) -> Event:
        """An event of a user of this test's own, with a text and an item unless told otherwise."""
        item = fields.pop("item_id", "item")
        return Event(
            user_id=self.prefix + user,
            message_id=message,
            kind=fields.pop("kind", "purchase"),
            occurred_at=fields.pop("occurred_at", 1_300_000_000_123),
            text=fields.pop("text", "a text"),
            item_id=None if item is None else self.prefix + item,
            **fields,
        )

    def put(self, *events: Event, replaces: bool = False) -> int:
        return self.sink.upsert(batch_of(events, replaces=replaces))

    def expected(self, contents: Iterable[Event]) -> Found:
        """What must be found of these contents, in whatever order they came."""
        return {
            event_id: Stored(
                event.user_id,
                event.occurred_at,
                event.version,
                event.digest,
                event.item_id if self.keeps_items else None,
            )
            for event_id, event in newest(contents).items()
            if self.needs is None or getattr(event, self.needs) is not None
        }


@pytest.fixture(params=STORES)
def subject(request: pytest.FixtureRequest, unique: str) -> Iterator[Subject]:
    """Each sink in turn."""
    place, _, name = request.param.rpartition(" ")
    sink, probe = _memory(name) if place else _REAL[name](request, unique)
    yield Subject(sink, probe, unique, NEEDS[name], name != "milvus")
    sink.close()
    probe.close()


def _memory(name: str) -> tuple[Any, Probe]:
    from include.sinks.memory import MemorySink

    sink = MemorySink(name, NEEDS[name])
    return sink, MemoryProbe(sink.rows, items=name != "milvus")


def _mongo(request: pytest.FixtureRequest, _: str) -> tuple[Any, Probe]:
    from include.sinks.mongo import MongoSink

    settings: MongoSettings = request.getfixturevalue("mongo_settings")
    return MongoSink(settings), MongoProbe(settings)


def _milvus(request: pytest.FixtureRequest, unique: str) -> tuple[Any, Probe]:
    from include.sinks.milvus import MilvusSink

    settings: MilvusSettings = request.getfixturevalue("shared_milvus_settings")
    sink = MilvusSink(settings, GENERATION, SHARDS)
    sink.prepare()
    return sink, MilvusProbe(settings, GENERATION, unique)


def _neo4j(request: pytest.FixtureRequest, unique: str) -> tuple[Any, Probe]:
    from include.sinks.neo4j import Neo4jSink

    settings: Neo4jSettings = request.getfixturevalue("neo4j_settings")
    return Neo4jSink(settings), Neo4jProbe(settings, unique)


_REAL: dict[str, Callable[[pytest.FixtureRequest, str], tuple[Any, Probe]]] = {
    "mongo": _mongo,
    "milvus": _milvus,
    "neo4j": _neo4j,
}


def test_new_events_are_stored_and_counted(subject: Subject) -> None:
    """What was put is found, and counted at once."""
    before = subject.sink.count()
    events = [subject.event("m1"), subject.event("m2", user="v", item_id="other", text="another text", version=3)]
    assert subject.put(*events) == 2
    assert subject.probe.found() == subject.expected(events)
    assert subject.sink.count() - before == 2


def test_a_repeated_batch_changes_nothing(subject: Subject) -> None:
    """A task that runs again finds its own work and leaves it."""
    events = [subject.event(f"m{n}", user=f"u{n % 3}", version=n % 2) for n in range(20)]
    assert subject.put(*events) == subject.put(*events) == 20
    assert subject.probe.found() == subject.expected(events)


def test_batches_may_overlap(subject: Subject) -> None:
    """Events that came in another batch before are stored once."""
    events = [subject.event(f"m{n}") for n in range(6)]
    subject.put(*events[:4])
    subject.put(*events[2:])
    assert subject.probe.found() == subject.expected(events)


@pytest.mark.parametrize("field", ["version", "value"])
def test_the_newest_content_stays_in_whatever_order(subject: Subject, field: str) -> None:
    """Of contents of one identity the highest version stays, ties by digest, the item and the text included."""
    orders = [_contents(subject, f"m{number}", field, order) for number, order in enumerate(permutations(range(3)))]
    for step, contents in enumerate(zip(*orders, strict=True)):
        subject.put(*contents, replaces=step > 0)
    assert subject.probe.found() == subject.expected(content for contents in orders for content in contents)


def _contents(subject: Subject, message: str, field: str, order: Iterable[int]) -> list[Event]:
    """Contents of one event that differ in everything, in that order."""
    changes: dict[str, dict[str, Any]] = {"version": {"version": 1}, "value": {"value": 1.5}}
    return [
        subject.event(
            message,
            item_id=f"i{n}",
            text=f"text {n}",
            occurred_at=n,
            **{name: n * step for name, step in changes[field].items()},
        )
        for n in order
    ]


def test_a_correction_that_nobody_announced_wins_too(subject: Subject) -> None:
    """The sink looks for itself: between staging and writing another run may have stored the older content."""
    contents = [subject.event(item_id="i0"), subject.event(item_id="i1", version=1)]
    for content in contents:
        subject.put(content)
    assert subject.probe.found() == subject.expected(contents)


def test_an_event_is_kept_only_by_the_stores_it_is_for(subject: Subject) -> None:
    """Without a text there is no vector, without an item no relationship; the count says how many there are."""
    events = [subject.event("text only", item_id=None), subject.event("item only", text=None)]
    assert subject.put(*events) == len(subject.expected(events))
    assert subject.probe.found() == subject.expected(events)


def test_a_content_without_what_the_store_needs_takes_the_older_away(subject: Subject) -> None:
    """When a correction drops the text or the item, nothing of the older content stays."""
    contents = [subject.event(), subject.event(text=None, version=1, item_id="kept")]
    if subject.needs == "item_id":
        contents[1] = subject.event(item_id=None, version=1)
    subject.put(contents[0], subject.event("neighbour"))
    subject.put(contents[1], replaces=True)
    assert subject.probe.found() == subject.expected([*contents, subject.event("neighbour")])


def test_an_older_content_takes_nothing_away(subject: Subject) -> None:
    """A correction that is itself outdated finds a newer content and leaves it."""
    newer = subject.event(version=2)
    subject.put(newer)
    subject.put(subject.event(text=None, version=1), replaces=True)
    subject.put(subject.event(item_id=None, version=1), replaces=True)
    assert subject.probe.found() == subject.expected([newer])


def test_ids_go_in_and_come_out_unchanged(subject: Subject) -> None:
    """Quotes, operators, line ends and every plane of Unicode are characters of an id and nothing else."""
    # The test's own prefix takes some of the 128 characters.
    ids = [odd[: 128 - len(subject.prefix)] for odd in ODD_IDS]
    events = [subject.event(odd, user=odd, item_id=odd, text=f"text {odd}") for odd in ids]
    subject.put(*events)
    subject.put(*events)
    assert subject.probe.found() == subject.expected(events)


def test_times_from_year_1_to_9999_are_kept_to_the_millisecond(subject: Subject) -> None:
    """No store may round a time, or lose one before 1970."""
    times = [-62_135_596_800_000, -1, 0, 1_300_000_000_123, 253_402_300_799_999]
    events = [subject.event(f"m{n}", occurred_at=time) for n, time in enumerate(times)]
    subject.put(*events)
    assert subject.probe.found() == subject.expected(events)


def test_an_empty_batch_is_nothing(subject: Subject) -> None:
    """A batch whose messages were all dead letters is no special case."""
    assert subject.put() == 0
    assert subject.probe.found() == {}


def test_a_batch_may_be_larger_than_any_request(subject: Subject) -> None:
    """What is split into several requests arrives whole."""
    events = [
        subject.event(f"m{n}", user=f"u{n % 97}", item_id=f"i{n % 31}", text=f"text {n % 7}") for n in range(11_000)
    ]
    before = subject.sink.count()
    assert subject.put(*events) == 11_000
    assert subject.sink.count() - before == 11_000
    assert subject.put(*events[5_000:6_000]) == 1_000
    assert subject.sink.count() - before == 11_000


@pytest.mark.parametrize("name", NEEDS)
def test_a_server_that_is_away_is_transient(name: str) -> None:
    """The task is tried again, and learns it within a bounded time."""
    events = batch_of([Event(user_id="u", message_id="m", kind="view", occurred_at=0, item_id="i")])
    with pytest.raises(TransientError), closing(_AWAY[name]()) as sink:
        sink.upsert(events)


def _mongo_away() -> Any:
    from include.sinks.mongo import MongoSink

    return MongoSink(MongoSettings("mongodb://127.0.0.1:1/?timeoutMS=2000"))


def _milvus_away() -> Any:
    from include.sinks.milvus import MilvusSink

    return MilvusSink(MilvusSettings("http://127.0.0.1:1"), GENERATION, SHARDS)


def _neo4j_away() -> Any:
    from include.sinks.neo4j import Neo4jSink

    return Neo4jSink(Neo4jSettings("neo4j://127.0.0.1:1"))


_AWAY: dict[str, Callable[[], Any]] = {"mongo": _mongo_away, "milvus": _milvus_away, "neo4j": _neo4j_away}
