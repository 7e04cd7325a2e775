"""Staging: how much of a topic one batch takes, and what happens when it is staged again."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pyarrow as pa
import pytest

from include.domain.batch import BatchRef
from include.domain.offsets import TopicDescription
from include.domain.validation import Verdict
from include.errors import ConfigurationError, OffsetsGoneError, RejectShareError
from include.pipeline.files import events_file
from include.pipeline.stage import StagePorts, claim_and_stage
from include.settings import PipelineSettings
from include.sources.memory import MemoryDeadLetters, MemorySource
from include.stores.files import ArrowFiles
from include.stores.memory_warehouse import MemoryWarehouse

SETTINGS = PipelineSettings(batch_path="memory://")


class AcceptingValidator:
    """Accepts everything."""

    def validate(self, events: pa.Table) -> Verdict:
        return Verdict({}, ())


class Shard:
    """One shard that is staged, and committed when a test asks for it."""

    def __init__(self) -> None:
        self.source = MemorySource()
        self.letters = MemoryDeadLetters()
        self.warehouse = MemoryWarehouse()
        self.files = ArrowFiles(f"memory://{uuid.uuid4().hex}")
        self.ports = StagePorts(
            source=self.source,
            dead_letters=self.letters,
            validator=AcceptingValidator(),
            stored_versions=self.warehouse.stored_versions,
            ledger=self.warehouse.ledger,
            files=self.files,
        )

    def publish(self, *payloads: bytes, at: int = 0) -> None:
        for payload in payloads:
            self.source.append(0, None, payload, at)

    def run(self, batch_bytes: int = SETTINGS.batch_bytes) -> BatchRef | None:
        """Claim and stage the next batch, None if there is none."""
        return claim_and_stage("events", 0, replace(SETTINGS, batch_bytes=batch_bytes), self.ports)

    def stage(self, batch_bytes: int = SETTINGS.batch_bytes) -> BatchRef:
        """Claim and stage the next batch."""
        ref = self.run(batch_bytes)
        assert ref is not None
        return ref

    def staged_ids(self, ref: BatchRef) -> list[str]:
        return sorted(self.files.read(events_file(ref))["message_id"].to_pylist())


@pytest.fixture
def shard() -> Shard:
    """An empty topic and an empty warehouse."""
    return Shard()


def payload(message_id: str, size: int = 0) -> bytes:
    fields = {"user_id": "u", "message_id": message_id, "kind": "view", "occurred_at": "2020-01-01T00:00:00Z"}
    return json.dumps({**fields, "text": "x" * size}).encode()


def test_a_batch_ends_where_its_bytes_reach_the_budget(shard: Shard) -> None:
    """Long messages make short batches, one message at least, and the next batch goes on where one ended."""
    shard.publish(*(payload(str(number), size=1_000) for number in range(3)), payload("long", size=9_000))
    ends = []
    while (ref := shard.run(batch_bytes=2_500)) is not None:
        ends.append(ref.end)
        shard.warehouse.ledger.commit(ref)
    assert ends == [2, 3, 4]


def test_a_batch_that_was_staged_is_never_shortened(shard: Shard) -> None:
    """A store may have all of it, so a smaller budget only affects later batches."""
    shard.publish(*(payload(str(number), size=1_000) for number in range(4)))
    first = shard.stage()
    again = shard.stage(batch_bytes=1_500)
    assert (again.start, again.end, again.epoch) == (first.start, first.end, first.epoch + 1)
    assert shard.staged_ids(again) == ["0", "1", "2", "3"]


def test_dead_letters_are_put_once(shard: Shard) -> None:
    """A batch that waits for a store is staged again and again; its dead letters are in the topic already."""
    shard.publish(b"{", payload("1"))
    for _ in range(3):
        shard.stage()
    assert len(shard.letters.letters) == 1


def test_dead_letters_of_a_crashed_attempt_are_put_again(shard: Shard) -> None:
    """Until the ledger knows that the batch was staged, its dead letters may be missing."""
    shard.publish(b"{", payload("1"))
    working = shard.files.write
    shard.files.write = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space left"):
        shard.stage()
    shard.files.write = working  # type: ignore[method-assign]
    shard.letters.letters.clear()
    shard.stage()
    assert len(shard.letters.letters) == 1


def fail(name: str, table: pa.Table) -> None:
    raise OSError("no space left")


def test_a_staged_batch_survives_retention(shard: Shard) -> None:
    """When the topic has deleted the messages of a batch that waits for a store, its staged file is used."""
    shard.publish(payload("1"), payload("2"), b"{")
    first = shard.stage()
    shard.source.trim(0, 2)
    again = shard.stage()
    assert again.epoch == first.epoch + 1
    assert shard.staged_ids(again) == ["1", "2"]


def test_messages_before_the_cut_are_left_out(shard: Shard) -> None:
    """What retention has deleted is not ingested again; the batch says how many messages it left out."""
    shard.publish(payload("1"), payload("2"), b"{", at=999)
    shard.publish(payload("3"), at=1_000)
    shard.warehouse.tables.cut_ms = 1_000
    ref = shard.stage()
    assert shard.staged_ids(ref) == ["3"]
    staged = shard.warehouse.ledger.read_staged(ref)
    assert staged is not None
    assert (staged[1].delivered, staged[1].valid, staged[1].dropped) == (4, 3, 2)
    assert staged[1].warnings == ["2 messages older than retention (millrace_keep_events_days) are left out"]
    assert len(shard.letters.letters) == 1


def test_a_staged_file_learns_of_the_cut(shard: Shard) -> None:
    """A batch that was staged before the cut, and whose messages are gone, is staged again without the old ones."""
    shard.publish(payload("1"), at=999)
    shard.publish(payload("2"), at=1_000)
    shard.stage()
    shard.source.trim(0, 1)
    shard.warehouse.tables.cut_ms = 1_000
    assert shard.staged_ids(shard.stage()) == ["2"]


def test_an_unstaged_batch_that_retention_removed_is_an_error(shard: Shard) -> None:
    """Nothing has its messages, so somebody has to decide; the error names the command."""
    shard.publish(payload("1"), payload("2"))
    shard.warehouse.ledger.claim("events", 0, shard.source.read_offsets(0), 10)
    shard.source.trim(0, 1)
    with pytest.raises(OffsetsGoneError):
        shard.stage()


def test_a_run_that_lost_its_claim_cannot_replace_staged_files(shard: Shard) -> None:
    """Each claim has files of its own."""
    shard.publish(payload("1"))
    first, second = shard.stage(), shard.stage()
    assert events_file(first) != events_file(second)
    assert shard.staged_ids(first) == shard.staged_ids(second) == ["1"]


def test_a_recreated_topic_stops_the_shard(shard: Shard) -> None:
    """Even one that has grown past the old position, which would otherwise be skipped into."""
    shard.publish(payload("1"))
    ref = shard.stage()
    shard.warehouse.ledger.commit(ref)
    shard.source.description = TopicDescription("another", SETTINGS.shards)
    shard.publish(payload("2"), payload("3"))
    with pytest.raises(ConfigurationError, match="deleted and created again"):
        shard.stage()


def test_added_partitions_stop_the_shards(shard: Shard) -> None:
    """No DAG would read them, so the error names the setting that adds one."""
    shard.source.description = TopicDescription("memory", SETTINGS.shards + 1)
    with pytest.raises(
        ConfigurationError, match=f"MILLRACE_SHARDS is {SETTINGS.shards}: set it to {SETTINGS.shards + 1}"
    ):
        shard.stage()


def test_a_run_without_messages_restores_the_groups_offset(shard: Shard) -> None:
    """Kafka forgets the offset of a quiet group; the ledger still has it."""
    shard.publish(payload("1"))
    ref = shard.stage()
    shard.warehouse.ledger.commit(ref)
    assert shard.source.read_committed_offset(0) is None
    assert shard.run() is None
    assert shard.source.read_committed_offset(0) == 1


def ingest(shard: Shard, valid: int, invalid: int) -> None:
    """Publish, stage and commit one batch."""
    shard.publish(*(payload(str(number)) for number in range(valid)), *[b"{"] * invalid)
    shard.warehouse.ledger.commit(shard.stage())


def test_too_many_rejects_stop_the_shard(shard: Shard) -> None:
    """More than 5 % of a batch of 1,000 messages or more: nothing becomes a dead letter, and the error says why."""
    shard.publish(*(payload(str(number)) for number in range(950)), *[b"{"] * 51)
    with pytest.raises(
        RejectShareError, match=r"51 of the last 1,001 messages .*invalid_json 51.*millrace_max_reject_percent"
    ):
        shard.stage()
    assert shard.letters.letters == []


def test_a_few_rejects_do_not_stop_the_shard(shard: Shard) -> None:
    """At 5 % exactly, and in a shard with fewer messages than the window, they become dead letters."""
    ingest(shard, valid=950, invalid=50)
    assert len(shard.letters.letters) == 50
    other = Shard()
    ingest(other, valid=0, invalid=999)
    assert len(other.letters.letters) == 999


def test_rejects_that_trickle_in_stop_the_shard(shard: Shard) -> None:
    """Small batches are judged together with the batches before them."""
    ingest(shard, valid=900, invalid=0)
    for _ in range(5):
        ingest(shard, valid=10, invalid=9)
    shard.publish(payload("1"), *[b"{"] * 9)
    with pytest.raises(RejectShareError, match="54 of the last 1,005 messages"):
        shard.stage()


def test_a_batch_that_was_accepted_is_not_judged_again(shard: Shard) -> None:
    """Its dead letters are in the topic; only a store may still be missing."""
    shard.publish(*[b"{"] * 2_000)
    for percent in (100, 5):
        settings = replace(SETTINGS, max_reject_percent=percent)
        assert claim_and_stage("events", 0, settings, shard.ports) is not None
