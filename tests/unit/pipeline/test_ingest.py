"""From staging to commit in memory: what is counted, what is dropped, and what a retry does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.domain.batch import BatchMode, BatchRef, StageCounts
from include.domain.generation import Generation
from include.domain.reasons import Reason
from include.domain.validation import Verdict
from include.embedders.memory import MemoryEmbedder
from include.errors import PermanentError, StagedBatchMissingError, StaleClaimError, TransientError
from include.pipeline.commit import CommitPorts, commit
from include.pipeline.embed import EmbedPorts, embed
from include.pipeline.files import events_file, vectors_file
from include.pipeline.settle import SettlePorts
from include.pipeline.stage import StagePorts, claim, stage
from include.pipeline.upsert import UpsertPorts, upsert
from include.sinks.memory import MemorySink
from include.sources.memory import MemoryDeadLetters, MemorySource
from include.stores import memory_warehouse as memory
from include.stores.files import ArrowFiles


class RejectingValidator:
    """Rejects the events of the users in ``bad``."""

    def __init__(self, bad: Mapping[str, Reason] | None = None, warnings: tuple[str, ...] = ()) -> None:
        self.bad = bad or {}
        self.warnings = warnings

    def validate(self, events: pa.Table) -> Verdict:
        users = events["user_id"].to_pylist()
        return Verdict({row: self.bad[user] for row, user in enumerate(users) if user in self.bad}, self.warnings)


class CountingEmbedder:
    """Computes vectors from the length of each text, and records the texts."""

    generation = Generation("test", "1", 2)

    def __init__(self, fail_after: int | None = None) -> None:
        self.embedded: list[str] = []
        self.fail_after = fail_after

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self.fail_after is not None and len(self.embedded) >= self.fail_after:
            raise TransientError("unavailable")
        self.embedded += texts
        return np.asarray([[1.0, len(text)] for text in texts], dtype=np.float32)


class Pipeline:
    """One shard and everything that an ingest run uses."""

    def __init__(self, folder: str, validator: RejectingValidator | None = None) -> None:
        self.source = MemorySource()
        self.letters = MemoryDeadLetters()
        self.warehouse = memory.MemoryWarehouse()
        self.tables = self.warehouse.tables
        self.ledger = self.warehouse.ledger
        self.embedder = CountingEmbedder()
        self.files = ArrowFiles(f"file://{folder}")
        self.stage_ports = StagePorts(
            source=self.source,
            dead_letters=self.letters,
            validator=validator or RejectingValidator(),
            stored_versions=self.warehouse.stored_versions,
            ledger=self.ledger,
            files=self.files,
        )

    def publish(self, *payloads: bytes | None, at: int = 0) -> None:
        for payload in payloads:
            self.source.append(0, None, payload, at)

    def claim(self, limit: int = 1000) -> BatchRef:
        ref = claim("events", 0, limit, self.stage_ports)
        assert ref is not None
        return ref

    def stage(self, ref: BatchRef) -> StageCounts:
        return stage(ref, self.stage_ports)[1]

    def embed(self, ref: BatchRef) -> dict[str, int]:
        return embed(ref, EmbedPorts(self.files, self.embedder, self.warehouse.text_vectors))

    def upsert(self, ref: BatchRef) -> int:
        sink = memory.MemoryWarehouseSink(self.tables)
        return upsert(ref, UpsertPorts(self.files, sink, None, self.ledger))

    def commit(self, ref: BatchRef) -> None:
        settle = SettlePorts(self.warehouse.stored_versions, self.warehouse.text_vectors, self.embedder.generation, [])
        commit(ref, CommitPorts(self.ledger, self.source, self.files, lambda: nullcontext(settle)))

    def run(self, limit: int = 1000) -> StageCounts | None:
        """One live run from claim to commit; None when there was nothing to read."""
        ref = claim("events", 0, limit, self.stage_ports)
        if ref is None:
            return None
        counts = self.stage(ref)
        self.embed(ref)
        self.upsert(ref)
        self.commit(ref)
        return counts


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(str(tmp_path))


def payload(message_id: str = "m", **changes: Any) -> bytes:
    fields = {"user_id": "u", "message_id": message_id, "kind": "view", "occurred_at": "2020-01-01T00:00:00Z"}
    return json.dumps({**fields, "text": "hello", **changes}).encode()


def test_every_message_is_accounted_for(tmp_path: Path) -> None:
    """delivered = valid + dead letters; duplicates within the batch are dropped; warnings are recorded."""
    pipeline = Pipeline(str(tmp_path), RejectingValidator({"bad": Reason.USER_ID_LENGTH}, ("odd",)))
    pipeline.publish(payload("1"), payload("1"), payload("2"), payload("3", user_id="bad"), b"{", None)
    counts = pipeline.run()
    letters = {"empty_message": 1, "invalid_json": 1, "user_id_length": 1}
    assert counts == StageCounts(delivered=6, valid=3, dropped=1, dead_letters=letters, warnings=["odd"])
    stored_letters = [(letter.origin, letter.reason, letter.record.value) for letter in pipeline.letters.letters]
    assert stored_letters == [
        ("events-0-3", Reason.USER_ID_LENGTH, payload("3", user_id="bad")),
        ("events-0-4", Reason.INVALID_JSON, b"{"),
        ("events-0-5", Reason.EMPTY_MESSAGE, None),
    ]
    assert len(pipeline.tables.events) == 2


def test_runs_drain_the_shard_in_batches(pipeline: Pipeline) -> None:
    """Each run takes at most its limit and moves the offset, until nothing is left."""
    pipeline.publish(*(payload(str(number)) for number in range(5)))
    while pipeline.run(limit=2):
        pass
    assert pipeline.source.read_committed_offset(0) == pipeline.ledger.read_position("events", 0) == 5
    assert len(pipeline.tables.events) == 5


def test_nothing_moves_before_commit(pipeline: Pipeline) -> None:
    """Staging, embedding and storing any number of times leaves the offset unchanged; a retry reads the same batch."""
    pipeline.publish(payload("1"), payload("2"))
    ref = pipeline.claim(10)
    for _ in range(2):
        counts = pipeline.stage(ref)
        pipeline.embed(ref)
        pipeline.upsert(ref)
    pipeline.publish(payload("3"))
    assert pipeline.source.read_committed_offset(0) is None
    assert msgspec.structs.replace(pipeline.claim(10), epoch=ref.epoch) == ref
    assert counts.valid == len(pipeline.tables.events) == 2
    ref = pipeline.claim(10)
    pipeline.stage(ref)
    for _ in range(2):
        pipeline.commit(ref)
    assert pipeline.source.read_committed_offset(0) == 2


def test_a_crash_between_two_stores_loses_nothing(pipeline: Pipeline) -> None:
    """When a batch is staged again after one store has it, every event is still in the file for the other stores."""
    pipeline.publish(payload("1"), payload("2", text=None, item_id="i"))
    ref = pipeline.claim(10)
    pipeline.stage(ref)
    before = pipeline.files.read(events_file(ref))
    pipeline.embed(ref)
    pipeline.upsert(ref)
    pipeline.stage(ref)
    assert pipeline.files.read(events_file(ref)).equals(before)


def test_an_older_version_that_arrives_late_is_replaced_by_the_stored_one(pipeline: Pipeline) -> None:
    """Sinks see the stored revision, marked, so that they can remove the older one; the event counts as dropped."""
    pipeline.publish(payload("1", version=2, text=None, item_id="i"))
    pipeline.run()
    pipeline.publish(payload("1", version=1))
    ref = pipeline.claim()
    assert pipeline.stage(ref) == StageCounts(delivered=1, valid=1, dropped=1)
    (row,) = pipeline.files.read(events_file(ref)).to_pylist()
    assert (row["version"], row["text"], row["item_id"], row["offset"], row["replaces"]) == (2, None, "i", 1, True)


def test_a_newer_version_is_marked_as_a_replacement(pipeline: Pipeline) -> None:
    """Sinks learn that an older revision may have to be deleted, even if the warehouse already has the new one."""
    pipeline.publish(payload("1"))
    pipeline.run()
    pipeline.publish(payload("1", version=1, text=None, item_id="i"))
    ref = pipeline.claim(10)
    for _ in range(2):
        pipeline.stage(ref)
        assert pipeline.files.read(events_file(ref))["replaces"].to_pylist() == [True]
        pipeline.embed(ref)
        pipeline.upsert(ref)


def test_a_text_is_embedded_only_once(pipeline: Pipeline) -> None:
    """The same text in one batch, in the next and in a retry is embedded once."""
    pipeline.publish(payload("1", text="a"), payload("2", text="a"), payload("3", text="bb"))
    pipeline.run()
    pipeline.publish(payload("4", text="a"), payload("5", text="ccc"))
    pipeline.run()
    assert sorted(pipeline.embedder.embedded) == ["a", "bb", "ccc"]


def test_an_interrupted_embedding_keeps_its_vectors(pipeline: Pipeline) -> None:
    """After an outage midway, only the missing texts are embedded."""
    texts = [f"text {number}" for number in range(50)]
    pipeline.publish(*(payload(text, text=text) for text in texts))
    ref = pipeline.claim(100)
    pipeline.stage(ref)
    pipeline.embedder.fail_after = 20
    with pytest.raises(TransientError):
        pipeline.embed(ref)
    pipeline.embedder.fail_after = None
    assert pipeline.embed(ref)["texts"] == 50
    assert sorted(pipeline.embedder.embedded) == sorted(texts)
    assert pipeline.files.read(vectors_file(ref)).num_rows == 50


def test_a_batch_without_texts_or_events_is_ingested(pipeline: Pipeline) -> None:
    """A batch with nothing to embed, or without a valid event, is ingested like any other."""
    pipeline.publish(payload("1", text=None, item_id="i"))
    assert pipeline.run() == StageCounts(delivered=1, valid=1)
    pipeline.publish(b"no")
    assert pipeline.run() == StageCounts(delivered=1, dead_letters={"invalid_json": 1})
    assert pipeline.run() is None


def test_ingesting_a_range_again_moves_no_offset(pipeline: Pipeline) -> None:
    """Ingesting a range again changes no event, no offset and no ledger position."""
    pipeline.publish(payload("1"), at=10)
    pipeline.publish(payload("2"), at=20)
    pipeline.run()
    ref = pipeline.ledger.claim_range(BatchRef("events", 0, 1, 2, BatchMode.RANGE))
    pipeline.stage(ref)
    pipeline.embed(ref)
    pipeline.upsert(ref)
    pipeline.commit(ref)
    assert pipeline.source.read_committed_offset(0) == pipeline.ledger.read_position("events", 0) == 2
    assert pipeline.tables.events.keys() == {("u", "1"), ("u", "2")}


def test_a_task_cleared_after_its_run_says_where_to_restart(pipeline: Pipeline) -> None:
    """The files of a committed batch are deleted, so the error names the task to clear instead."""
    pipeline.publish(payload("1"))
    pipeline.run()
    with pytest.raises(StagedBatchMissingError, match="first task"):
        pipeline.upsert(BatchRef("events", 0, 0, 1))


def test_only_sinks_that_need_vectors_wait_for_them(pipeline: Pipeline) -> None:
    """Without the embed task, a sink that needs no vectors stores the batch, and one that needs them fails."""
    pipeline.publish(payload("1"), payload("2", text=None, item_id="i"))
    ref = pipeline.claim()
    pipeline.stage(ref)
    assert pipeline.upsert(ref) == len(pipeline.tables.events) == 2
    milvus = MemorySink("milvus", needs="text", needs_vectors=True)
    with pytest.raises(StagedBatchMissingError):
        upsert(ref, UpsertPorts(pipeline.files, milvus, pipeline.embedder.generation, pipeline.ledger))
    pipeline.embed(ref)
    assert upsert(ref, UpsertPorts(pipeline.files, milvus, pipeline.embedder.generation, pipeline.ledger)) == 1
    assert [row["vector"].tolist() for row in milvus.rows.values()] == [[1.0, 5.0]]


def test_a_run_that_lost_its_claim_moves_no_offset(pipeline: Pipeline) -> None:
    """The ledger refuses its commit first, so the group's offset never passes what the ledger has."""
    pipeline.publish(payload("1"))
    stale = pipeline.claim()
    pipeline.stage(stale)
    pipeline.claim()
    with pytest.raises(StaleClaimError):
        pipeline.commit(stale)
    assert pipeline.source.read_committed_offset(0) is None


def test_vectors_of_another_generation_are_not_stored(pipeline: Pipeline) -> None:
    """A batch embedded before the model was changed fails, and the next run of the shard embeds and stores it."""
    pipeline.publish(payload("1"))
    ref = pipeline.claim()
    pipeline.stage(ref)
    pipeline.embed(ref)
    sink = MemorySink("milvus", needs="text", needs_vectors=True)
    other = MemoryEmbedder(Generation("other", "1", 3))
    with pytest.raises(PermanentError, match=r"generation test_1_2, but other_1_3 is set.*next run embeds it again"):
        upsert(ref, UpsertPorts(pipeline.files, sink, other.generation, pipeline.ledger))
    assert sink.rows == {}
    ref = pipeline.claim()
    pipeline.stage(ref)
    embed(ref, EmbedPorts(pipeline.files, other, pipeline.warehouse.text_vectors))
    assert upsert(ref, UpsertPorts(pipeline.files, sink, other.generation, pipeline.ledger)) == 1


contents = st.builds(
    payload,
    message_id=st.sampled_from("ab"),
    version=st.integers(0, 2),
    text=st.sampled_from(["x", "y", None]),
    item_id=st.sampled_from(["i", "j"]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(contents, min_size=1, max_size=8), st.randoms(use_true_random=False), st.integers(1, 8))
def test_order_and_batching_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, messages: list[bytes], random: Any, limit: int
) -> None:
    """Any order of the messages, in batches of any size, leaves the same events."""

    def ingest(ordered: list[bytes], size: int) -> dict[tuple[str, str], Any]:
        pipeline = Pipeline(str(tmp_path_factory.mktemp("order")))
        pipeline.publish(*ordered)
        while pipeline.run(size):
            pass
        return {identity: (row["version"], row["digest"]) for identity, row in pipeline.tables.events.items()}

    shuffled = random.sample(messages, len(messages))
    assert ingest(messages, 8) == ingest(shuffled, limit)
