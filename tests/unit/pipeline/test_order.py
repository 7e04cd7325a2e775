"""Any history of the same events leaves every store the same, whatever the order, batches, crashes and replays."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from include.domain.batch import BatchRef
from include.domain.event import Event, decode
from include.domain.reasons import Reason
from include.domain.validation import Verdict
from include.embedders.memory import MemoryEmbedder
from include.pipeline.aggregate import aggregate_touched
from include.pipeline.commit import CommitPorts, commit
from include.pipeline.embed import EmbedPorts, embed
from include.pipeline.stage import StagePorts, claim, claim_range, stage
from include.pipeline.upsert import UpsertPorts, upsert
from include.ports import Sink
from include.sinks.memory import MemorySink
from include.sources.memory import MemoryDeadLetters, MemorySource
from include.stores import memory_warehouse as memory
from include.stores.files import ArrowFiles
from tests.contract.batches import newest

HOUR = 3_600_000
ALL = 1_000
STORES = ["warehouse", "mongo", "milvus", "neo4j"]


class EmptyEventValidator:
    """The one value rule that these messages break; the full suite of rules takes too long for so many histories."""

    def validate(self, events: pa.Table) -> Verdict:
        pairs = zip(events["text"].to_pylist(), events["item_id"].to_pylist(), strict=True)
        empty = [row for row, pair in enumerate(pairs) if pair == (None, None)]
        return Verdict(dict.fromkeys(empty, Reason.NO_TEXT_AND_NO_ITEM), [])


@dataclass(frozen=True)
class Run:
    """One run of the DAG: its batch size, and the stores that have the batch when it dies (None: it completes)."""

    limit: int = ALL
    reached: frozenset[str] | None = None


@dataclass(frozen=True)
class Replay:
    """A range of publication times, ingested again."""

    start: int
    end: int


type Step = Run | Replay


@dataclass
class World:
    """One shard, every store of events, and the engagement counts."""

    source: MemorySource = field(default_factory=lambda: MemorySource())
    letters: MemoryDeadLetters = field(default_factory=MemoryDeadLetters)
    tables: memory.MemoryTables = field(default_factory=memory.MemoryTables)
    embedder: MemoryEmbedder = field(default_factory=MemoryEmbedder)
    files: ArrowFiles = field(default_factory=lambda: ArrowFiles(f"memory://{uuid.uuid4().hex}"))

    def __post_init__(self) -> None:
        self.mongo = MemorySink("mongo")
        self.milvus = MemorySink("milvus", needs="text", needs_vectors=True)
        self.neo4j = MemorySink("neo4j", needs="item_id")
        self.warehouse = memory.MemoryWarehouseSink(self.tables)
        self.ledger = memory.MemoryLedger(self.tables)
        self.stage_ports = StagePorts(
            self.source,
            self.letters,
            EmptyEventValidator(),
            memory.MemoryStoredVersions(self.tables),
            self.ledger,
            self.files,
        )

    def take(self, step: Step) -> None:
        """Perform one step; the run after one that died takes the same batch."""
        if isinstance(step, Run):
            ref = claim("events", 0, step.limit, self.stage_ports)
            reached = step.reached
        else:
            ref = claim_range("events", 0, (step.start, step.end), self.stage_ports)
            reached = None
        if ref is not None:
            self._ingest(ref, reached)

    def drain(self) -> None:
        """Run until nothing is left, then aggregate."""
        high = self.source.offsets(0).high
        while self.ledger.position("events", 0) != high:
            self.take(Run())
        aggregate_touched(memory.MemoryEngagement(self.tables))

    def _ingest(self, ref: BatchRef, reached: frozenset[str] | None) -> None:
        stage(ref, self.stage_ports)
        embed(ref, EmbedPorts(self.files, self.embedder, memory.MemoryTextVectors(self.tables)))
        sinks: list[Sink] = [self.warehouse, *self._sinks()]
        for sink in sinks:
            if reached is None or sink.name in reached:
                upsert(ref, UpsertPorts(self.files, sink, needs_vectors=sink is self.milvus))
        if reached is None:
            commit(ref, CommitPorts(self.ledger, self.source, self.files))

    def contents(self) -> dict[str, Any]:
        """What the stores hold, without a message's place in the topic and the bookkeeping of revisions."""
        warehouse = {"/".join(identity): _plain(row) for identity, row in self.tables.events.items()}
        sinks = {sink.name: {key: _plain(row) for key, row in sink.rows.items()} for sink in self._sinks()}
        return {"warehouse": warehouse, "engagement": self.tables.engagement, **sinks}

    def _sinks(self) -> tuple[MemorySink, ...]:
        return self.mongo, self.milvus, self.neo4j


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    bookkeeping = ("offset", "published_at", "replaces", "revised")
    content = {name: value for name, value in row.items() if name not in bookkeeping}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in content.items()}


def _payload(**fields: Any) -> bytes:
    hours = fields.pop("hour")
    text = {"kind": "view", "occurred_at": f"2020-01-01T{hours:02d}:30:00Z"}
    return json.dumps({**text, **fields}).encode()


EVENTS = st.builds(
    _payload,
    user_id=st.just("u"),
    message_id=st.sampled_from("ab"),
    version=st.integers(0, 2),
    hour=st.integers(0, 1),
    text=st.sampled_from([None, "x", "y"]),
    item_id=st.sampled_from([None, "i", "j"]),
    value=st.sampled_from([None, 0.1, 0.2]),
)
MESSAGES = st.lists(EVENTS | st.just(b"not an event"), min_size=1, max_size=8)
STEPS = st.one_of(
    st.builds(Run, st.integers(1, 8), st.none() | st.frozensets(st.sampled_from(STORES))),
    st.builds(Replay, st.integers(0, 8), st.integers(0, 9)),
)


def play(messages: list[bytes], steps: list[Step]) -> World:
    """The world after these messages were published one by one, with a step between any two."""
    world = World()
    for number, message in enumerate(messages):
        world.source.append(0, None, message, 1_600_000_000_000 + number)
        if number < len(steps):
            world.take(_shift(steps[number]))
    for step in steps[len(messages) :]:
        world.take(_shift(step))
    world.drain()
    return world


def _shift(step: Step) -> Step:
    if isinstance(step, Run):
        return step
    return Replay(1_600_000_000_000 + step.start, 1_600_000_000_000 + step.end)


def _valid(messages: list[bytes]) -> list[Event]:
    """The messages that are events and have a text or an item."""
    events = [decode(message) for message in messages if message != b"not an event"]
    return [each for each in events if each.text is not None or each.item_id is not None]


@settings(deadline=None, max_examples=150)  # a busy machine is not a failure
@given(MESSAGES, st.lists(STEPS, max_size=10), st.randoms(use_true_random=False))
def test_every_store_converges_whatever_happened(messages: list[bytes], steps: list[Step], random: Any) -> None:
    """In any order, in batches of any size, with runs that die between two stores and with replays."""
    undisturbed = play(messages, [])
    disturbed = play(random.sample(messages, len(messages)), steps)
    assert disturbed.contents() == undisturbed.contents()


#: A content loses its text, then its item, and each run dies after the warehouse has the batch.
_INTERRUPTED = [
    _payload(user_id="u", message_id="a", version=version, hour=0, text=text, item_id=item)
    for version, (text, item) in enumerate([("x", "i"), (None, "j"), ("y", None)])
]


@settings(deadline=None, max_examples=150)  # a busy machine is not a failure
@example(_INTERRUPTED, [Run(), Run(reached=frozenset({"warehouse"})), Run(), Run(reached=frozenset({"warehouse"}))])
@given(MESSAGES, st.lists(STEPS, max_size=10))
def test_every_store_holds_the_newest_contents_that_it_keeps(messages: list[bytes], steps: list[Step]) -> None:
    """Each store holds the winning content of each identity, or nothing if that content lacks the field it needs."""
    world = play(messages, steps)
    winners = newest(_valid(messages))
    for sink, needs in ((world.mongo, None), (world.milvus, "text"), (world.neo4j, "item_id")):
        expected = {key for key, each in winners.items() if needs is None or getattr(each, needs) is not None}
        assert {key: row["digest"] for key, row in sink.rows.items()} == {key: winners[key].digest for key in expected}
        assert sink.count() == len(expected)
    assert world.warehouse.count() == len(winners)
    engaged = sum(events for events, _, _ in world.tables.engagement.values())
    assert engaged == len(winners)


@settings(deadline=None, max_examples=50)  # a busy machine is not a failure
@given(MESSAGES, st.lists(STEPS, max_size=8))
def test_every_invalid_message_is_a_dead_letter(messages: list[bytes], steps: list[Step]) -> None:
    """However often a batch is staged, the letters have the origins of the invalid messages, and each is read once."""
    world = play(messages, steps)
    bad = len(messages) - len(_valid(messages))
    origins = {letter.origin for letter in world.letters.letters}
    assert len(origins) == len(list(world.letters.read())) == bad
