"""The same events leave the same contents in every store, whatever the order, batches, crashes and replays."""

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
    """A range of publish times, ingested again."""

    start: int
    end: int


type Step = Run | Replay


@dataclass
class Pipeline:
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

    def perform(self, step: Step) -> None:
        """Perform one step; a run after one that died ingests the same batch."""
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
        high = self.source.read_offsets(0).high
        while self.ledger.read_position("events", 0) != high:
            self.perform(Run())
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
        """The contents of every store, without the origin of each message and the bookkeeping of revisions."""
        warehouse = {"/".join(identity): _content(row) for identity, row in self.tables.events.items()}
        sinks = {sink.name: {key: _content(row) for key, row in sink.rows.items()} for sink in self._sinks()}
        return {"warehouse": warehouse, "engagement": self.tables.engagement, **sinks}

    def _sinks(self) -> tuple[MemorySink, ...]:
        return self.mongo, self.milvus, self.neo4j


def _content(row: dict[str, Any]) -> dict[str, Any]:
    bookkeeping = ("offset", "published_at", "replaces", "revised")
    columns = {name: value for name, value in row.items() if name not in bookkeeping}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in columns.items()}


def _payload(**fields: Any) -> bytes:
    hour = fields.pop("hour")
    defaults = {"kind": "view", "occurred_at": f"2020-01-01T{hour:02d}:30:00Z"}
    return json.dumps({**defaults, **fields}).encode()


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


def run_history(messages: list[bytes], steps: list[Step]) -> Pipeline:
    """Publish the messages in order, with one step after each, then perform the other steps and drain the shard."""
    pipeline = Pipeline()
    for number, message in enumerate(messages):
        pipeline.source.append(0, None, message, 1_600_000_000_000 + number)
        if number < len(steps):
            pipeline.perform(_shift(steps[number]))
    for step in steps[len(messages) :]:
        pipeline.perform(_shift(step))
    pipeline.drain()
    return pipeline


def _shift(step: Step) -> Step:
    """The step with the times of a replay counted from the first message."""
    if isinstance(step, Run):
        return step
    return Replay(1_600_000_000_000 + step.start, 1_600_000_000_000 + step.end)


def _valid(messages: list[bytes]) -> list[Event]:
    """The valid events of these messages: those with a text or an item."""
    events = [decode(message) for message in messages if message != b"not an event"]
    return [event for event in events if event.text is not None or event.item_id is not None]


@settings(deadline=None, max_examples=150)  # a busy machine is not a failure
@given(MESSAGES, st.lists(STEPS, max_size=10), st.randoms(use_true_random=False))
def test_every_store_converges_whatever_happened(messages: list[bytes], steps: list[Step], random: Any) -> None:
    """Order, batch sizes, runs that die between two stores and replays make no difference to the final contents."""
    undisturbed = run_history(messages, [])
    disturbed = run_history(random.sample(messages, len(messages)), steps)
    assert disturbed.contents() == undisturbed.contents()


#: An event loses its text, then its item, and the runs die once the warehouse has the batch.
_INTERRUPTED = [
    _payload(user_id="u", message_id="a", version=version, hour=0, text=text, item_id=item)
    for version, (text, item) in enumerate([("x", "i"), (None, "j"), ("y", None)])
]


@settings(deadline=None, max_examples=150)  # a busy machine is not a failure
@example(_INTERRUPTED, [Run(), Run(reached=frozenset({"warehouse"})), Run(), Run(reached=frozenset({"warehouse"}))])
@given(MESSAGES, st.lists(STEPS, max_size=10))
def test_every_store_has_the_newest_contents(messages: list[bytes], steps: list[Step]) -> None:
    """Each store has the winning revision of each identity, or nothing if that content lacks the required field."""
    pipeline = run_history(messages, steps)
    winners = newest(_valid(messages))
    for sink, needs in ((pipeline.mongo, None), (pipeline.milvus, "text"), (pipeline.neo4j, "item_id")):
        expected = {key for key, event in winners.items() if needs is None or getattr(event, needs) is not None}
        assert {key: row["digest"] for key, row in sink.rows.items()} == {key: winners[key].digest for key in expected}
        assert sink.count() == len(expected)
    assert pipeline.warehouse.count() == len(winners)
    engaged = sum(events for events, _, _ in pipeline.tables.engagement.values())
    assert engaged == len(winners)


@settings(deadline=None, max_examples=50)  # a busy machine is not a failure
@given(MESSAGES, st.lists(STEPS, max_size=8))
def test_every_invalid_message_is_a_dead_letter(messages: list[bytes], steps: list[Step]) -> None:
    """However often a batch is staged, each invalid message is one dead letter, and each is read once."""
    pipeline = run_history(messages, steps)
    bad = len(messages) - len(_valid(messages))
    origins = {letter.origin for letter in pipeline.letters.letters}
    assert len(origins) == len(list(pipeline.letters.read())) == bad
