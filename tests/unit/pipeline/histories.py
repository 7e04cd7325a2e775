"""A model of one shard: histories of runs that stop anywhere, overlap and wake up, over every store in memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from include.domain.batch import BatchMode, BatchRef, StagedBatch
from include.domain.event import Event, decode
from include.domain.reasons import Reason
from include.domain.validation import Verdict
from include.embedders.memory import MemoryEmbedder
from include.errors import StaleClaimError
from include.pipeline.aggregate import aggregate_touched
from include.pipeline.commit import CommitPorts, commit
from include.pipeline.embed import EmbedPorts, embed
from include.pipeline.files import events_file, vectors_file
from include.pipeline.replay import Bound, plan
from include.pipeline.settle import SettlePorts, settle
from include.pipeline.stage import StagePorts, claim, stage
from include.pipeline.upsert import read_vectors
from include.ports import Sink
from include.sinks.memory import MemorySink
from include.sources.memory import MemoryDeadLetters, MemorySource
from include.stores import memory_warehouse as memory
from include.stores.memory_tables import MemoryTables, Row
from tests.contract.batches import newest

#: More messages than a history has.
ALL = 1_000
STORES = ("warehouse", "mongo", "milvus", "neo4j")
#: The stores that do not store every event.
SETTLED = ("milvus", "neo4j")

_FIRST_MS = 1_600_000_000_000
_NOT_AN_EVENT = b"not an event"


class EmptyEventValidator:
    """The one value rule that these messages break; the full suite of rules takes too long for so many histories."""

    def validate(self, events: pa.Table) -> Verdict:
        pairs = zip(events["text"].to_pylist(), events["item_id"].to_pylist(), strict=True)
        empty = [row for row, pair in enumerate(pairs) if pair == (None, None)]
        return Verdict(dict.fromkeys(empty, Reason.NO_TEXT_AND_NO_ITEM), [])


class TableDict(dict[str, pa.Table]):
    """``ports.BatchStore``, without the cost of files."""

    def write(self, name: str, table: pa.Table) -> None:
        self[name] = table

    def read(self, name: str) -> pa.Table:
        return self[name]

    def delete(self, folder: str) -> None:
        for name in [name for name in self if name.startswith(folder)]:
            del self[name]

    def find_folders(self, prefix: str) -> Sequence[str]:
        return sorted({name.removeprefix(prefix).split("/")[0] for name in self if name.startswith(prefix)})


@dataclass(frozen=True)
class Publish:
    """The next message arrives."""


@dataclass(frozen=True)
class Start:
    """A run claims and stages a batch: the next live one, or the range of these messages if there is one."""

    limit: int = ALL
    range: tuple[int, int] | None = None


@dataclass(frozen=True)
class Write:
    """A run, the latest if 0, writes what it has staged to some stores, in order. It may have slept for a long time."""

    run: int
    stores: tuple[str, ...]


@dataclass(frozen=True)
class Finish:
    """A run, the latest if 0, writes to every store that it has not written to yet, and commits."""

    run: int = 0


type Step = Publish | Start | Write | Finish


@dataclass
class Run:
    """A run that has staged its batch: what its tasks have read, and the stores that they have written."""

    number: int
    batch: StagedBatch
    written: set[str] = field(default_factory=set)
    #: Events of a range that it wrote after a later run had started, and has not settled since.
    unsettled: set[str] = field(default_factory=set)


@dataclass
class Pipeline:
    """One shard, every store of events, and the engagement counts."""

    source: MemorySource = field(default_factory=lambda: MemorySource())
    letters: MemoryDeadLetters = field(default_factory=MemoryDeadLetters)
    tables: MemoryTables = field(default_factory=MemoryTables)
    embedder: MemoryEmbedder = field(default_factory=MemoryEmbedder)
    files: TableDict = field(default_factory=lambda: TableDict())
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.warehouse = memory.MemoryWarehouseSink(self.tables)
        self.stores: dict[str, MemorySink] = {
            "mongo": MemorySink("mongo"),
            "milvus": MemorySink("milvus", needs="text", needs_vectors=True),
            "neo4j": MemorySink("neo4j", needs="item_id"),
        }
        self.sinks: dict[str, Sink] = {"warehouse": self.warehouse, **self.stores}
        self.ledger = memory.MemoryLedger(self.tables)
        stored = memory.MemoryStoredVersions(self.tables)
        self.stage_ports = StagePorts(self.source, self.letters, EmptyEventValidator(), stored, self.ledger, self.files)

    def start(self, step: Start) -> Run | None:
        """Claim, stage and embed. None if there is nothing to claim."""
        if step.range is None:
            ref = claim("events", 0, step.limit, self.stage_ports)
        else:
            start, end = (Bound(published_at=_FIRST_MS + time) for time in step.range)
            ranges = plan(self.source, [0], start, end)
            found = [BatchRef("events", 0, each.start, each.end, BatchMode.RANGE) for each in ranges]
            ref = self.ledger.claim_range(found[0]) if found else None
        if ref is None:
            return None
        run = Run(len(self.runs), self._stage(ref))
        self.runs.append(run)
        return run

    def write(self, run: Run, name: str) -> None:
        """Write to one store, as the upsert of a task does; the warehouse refuses a run that has lost its claim."""
        ref = run.batch.ref
        is_current = self.ledger.is_current(ref)
        if is_current and ref.mode == BatchMode.RANGE and run.number + 1 < len(self.runs):
            run.unsettled.update(run.batch.events["event_id"].to_pylist())
        try:
            self.sinks[name].upsert(run.batch)
        except StaleClaimError:
            return
        if not is_current and name in SETTLED:
            settle(ref, run.batch.events, self._settle_ports(name))
        run.written.add(name)

    def finish(self, run: Run) -> None:
        """Write to the other stores, and commit if every store has the batch."""
        for name in STORES:
            if name not in run.written:
                self.write(run, name)
        if run.written == set(STORES):
            ports = CommitPorts(self.ledger, self.source, self.files, lambda: nullcontext(self._settle_ports(*SETTLED)))
            try:
                commit(run.batch.ref, ports)
            except StaleClaimError:
                return
            run.unsettled.clear()

    def _settle_ports(self, *names: str) -> SettlePorts:
        stored, vectors = memory.MemoryStoredVersions(self.tables), memory.MemoryTextVectors(self.tables)
        sinks = [(self.sinks[name], name == "milvus") for name in names]
        return SettlePorts(stored, vectors, self.embedder.generation, sinks)

    def drain(self) -> None:
        """Complete live runs until nothing is left, then aggregate."""
        while (run := self.start(Start())) is not None:
            self.finish(run)
        aggregate_touched(memory.MemoryEngagement(self.tables))

    def replay(self) -> None:
        """Ingest every message again, then aggregate."""
        run = self.start(Start(range=(0, ALL)))
        assert run is not None
        self.finish(run)
        aggregate_touched(memory.MemoryEngagement(self.tables))

    def contents(self) -> dict[str, Any]:
        """The contents of every store, without the origin of each message and the bookkeeping of revisions."""
        warehouse = {"/".join(identity): _content(row) for identity, row in self.tables.events.items()}
        sinks = {name: {key: _content(row) for key, row in sink.rows.items()} for name, sink in self.stores.items()}
        return {"warehouse": warehouse, "engagement": self.tables.engagement, **sinks}

    def digests(self) -> dict[str, dict[str, str]]:
        """The digest of each stored event, by store and event id."""
        warehouse = {row["event_id"]: row["digest"] for row in self.tables.events.values()}
        return {
            "warehouse": warehouse,
            **{name: {key: row["digest"] for key, row in sink.rows.items()} for name, sink in self.stores.items()},
        }

    def written_rows(self) -> set[int]:
        """The identity of each row object: a row that is written again, even unchanged, is another object."""
        tables: list[Mapping[Any, Row]] = [self.tables.events, *(sink.rows for sink in self.stores.values())]
        return {id(row) for rows in tables for row in rows.values()}

    def _stage(self, ref: BatchRef) -> StagedBatch:
        ref, _ = stage(ref, self.stage_ports)
        embed(ref, EmbedPorts(self.files, self.embedder, memory.MemoryTextVectors(self.tables)))
        return StagedBatch(ref, self.files.read(events_file(ref)), *read_vectors(self.files.read(vectors_file(ref))))


def _content(row: dict[str, Any]) -> dict[str, Any]:
    bookkeeping = ("offset", "published_at", "replaces", "revised")
    columns = {name: value for name, value in row.items() if name not in bookkeeping}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in columns.items()}


def perform(messages: list[bytes], steps: list[Step]) -> Pipeline:
    """Perform the steps; messages that they have not published arrive at the end."""
    pipeline = Pipeline()
    waiting = list(enumerate(messages))
    for step in [*steps, *[Publish()] * len(messages)]:
        match step:
            case Publish() if waiting:
                number, message = waiting.pop(0)
                pipeline.source.append(0, None, message, _FIRST_MS + number)
            case Start():
                pipeline.start(step)
            case Write(run, stores) if run < len(pipeline.runs):
                for name in stores:
                    pipeline.write(pipeline.runs[-1 - run], name)
            case Finish(run) if run < len(pipeline.runs):
                pipeline.finish(pipeline.runs[-1 - run])
    return pipeline


def valid_events(messages: list[bytes]) -> list[Event]:
    """The valid events of these messages: those with a text or an item."""
    events = [decode(message) for message in messages if message != _NOT_AN_EVENT]
    return [event for event in events if event.text is not None or event.item_id is not None]


def winning_digests(messages: list[bytes]) -> dict[str, dict[str, str]]:
    """What ``Pipeline.digests`` must be: each winner in every store that it belongs in, and nothing else."""
    winners = newest(valid_events(messages))
    needs = {"warehouse": None, "mongo": None, "milvus": "text", "neo4j": "item_id"}
    return {
        name: {
            key: event.digest for key, event in winners.items() if column is None or getattr(event, column) is not None
        }
        for name, column in needs.items()
    }


def revised_ids(messages: list[bytes]) -> set[str]:
    """The ids of events with more than one content."""
    contents = {(event.event_id, event.digest) for event in valid_events(messages)}
    return {event_id for event_id, number in Counter(event_id for event_id, _ in contents).items() if number > 1}


def payload(**fields: Any) -> bytes:
    """A message of user u."""
    hour = fields.pop("hour", 0)
    defaults = {"user_id": "u", "kind": "view", "occurred_at": f"2020-01-01T{hour:02d}:30:00Z"}
    return json.dumps({**defaults, **fields}).encode()


_EVENTS = st.builds(
    payload,
    message_id=st.sampled_from("aaaab"),
    version=st.integers(0, 2),
    hour=st.integers(0, 1),
    text=st.sampled_from([None, "x", "y"]),
    item_id=st.sampled_from(["i", None, "j"]),
)
MESSAGES = st.lists(st.one_of(_EVENTS, _EVENTS, _EVENTS, st.just(_NOT_AN_EVENT)), min_size=1, max_size=6)
_STARTS = st.builds(Start, st.integers(1, 3)) | st.builds(
    lambda start, size: Start(range=(start, start + size)), st.integers(0, 5), st.integers(1, 3)
)
_PUBLISHED = st.integers(0, 2).map(lambda number: [Publish()] * number)
_SUBSETS = st.lists(st.sampled_from(STORES), max_size=3, unique=True).map(tuple)


def _attempt(published: list[Step], start: Start, *rest: Step) -> list[Step]:
    return [*published, start, *rest]


def _flatten(parts: list[list[Step]]) -> list[Step]:
    return [step for part in parts for step in part]


_LATEST = st.builds(Write, st.just(0), _SUBSETS) | st.just(Finish())
_ANY = st.builds(Write, st.integers(0, 3), _SUBSETS) | st.builds(Finish, st.integers(0, 3))
#: Runs one after the other: each stops anywhere, and never goes on once the next has started.
SERIAL_STEPS = st.lists(st.builds(_attempt, _PUBLISHED, _STARTS, _LATEST), max_size=6).map(_flatten)
#: Runs that overlap, and runs that wake up after others have finished.
OVERLAPPING_STEPS = st.lists(st.builds(_attempt, _PUBLISHED, _STARTS, _ANY, _ANY), max_size=5).map(_flatten)


def check_serial(messages: list[bytes], steps: list[Step]) -> Pipeline:
    """Once the live runs have drained, every store has exactly the winners."""
    pipeline = perform(messages, steps)
    pipeline.drain()
    assert pipeline.digests() == winning_digests(messages)
    engaged = sum(events for events, _, _ in pipeline.tables.engagement.values())
    assert engaged == pipeline.warehouse.count()
    return pipeline


def check_overlapping(messages: list[bytes], steps: list[Step]) -> Pipeline:
    """Drained, only events that a range wrote late without finishing may be wrong, and each is marked; a replay cures
    them, a second one writes nothing.
    """
    pipeline = perform(messages, steps)
    pipeline.drain()
    expected, actual = winning_digests(messages), pipeline.digests()
    assert actual["warehouse"] == expected["warehouse"]
    for name in STORES:
        wrong = {key for key, _ in actual[name].items() ^ expected[name].items()}
        assert wrong <= set().union(*(run.unsettled for run in pipeline.runs)), name
    pipeline.replay()
    assert pipeline.digests() == expected
    marked = {row["event_id"] for row in pipeline.tables.events.values() if row["revised"]}
    assert marked == revised_ids(messages)
    contents, rows = pipeline.contents(), pipeline.written_rows()
    pipeline.replay()
    assert pipeline.contents() == contents
    assert pipeline.written_rows() == rows
    return pipeline
