"""An event that one store refuses becomes a dead letter; nothing else is lost, and all stores have the same events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include import bootstrap
from include.domain.batch import BatchRef, StagedBatch
from include.errors import PermanentError, RefusedError, RefusedEventsError, TransientError
from include.memory_servers import MemoryServers, memory_servers
from include.pipeline.commit import commit
from include.pipeline.embed import embed
from include.pipeline.files import events_file
from include.pipeline.replay import ReplayPorts, ReplayPosition, ShardRange, replay
from include.pipeline.stage import NO_LIMITS, claim_and_stage
from include.pipeline.upsert import UpsertPorts, upsert
from include.ports import Sink
from include.settings import EnvironmentSettings
from include.stores.files import ArrowFiles
from include.stores.memory_tables import MemoryTables
from include.stores.memory_warehouse import MemoryLedger
from tests.contract.batches import batch_of
from tests.contract.events import event

NAMES = ["MONGO_URI", "MILVUS_URI", "NEO4J_URI", "WAREHOUSE_DSN", "EMBED_URL", "KAFKA_BOOTSTRAP"]
STORES = ["mongo", "milvus", "neo4j", "warehouse"]
PUBLISHED = 2_000_000_000_000


class RefusingSink:
    """A store that refuses a batch with a text that begins with "poison", and stores nothing of it."""

    def __init__(self, sink: Sink) -> None:
        self.real, self.calls = sink, 0

    def upsert(self, batch: StagedBatch) -> int:
        self.calls += 1
        if any((text or "").startswith("poison") for text in batch.events["text"].to_pylist()):
            raise RefusedError("a value is too long")
        return self.real.upsert(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Shard:
    """One shard, and stores of which one refuses poison."""

    def __init__(
        self, servers: MemoryServers, ports: ReplayPorts, settings: EnvironmentSettings, refusing: str
    ) -> None:
        self.servers, self.settings = servers, settings
        self.sink = RefusingSink(ports.sinks[refusing].sink)
        sinks = {**ports.sinks, refusing: replace(ports.sinks[refusing], sink=self.sink)}
        self.ports = replace(ports, sinks=sinks)

    def publish(self, message_id: str, text: str, version: int = 0) -> None:
        fields = {"user_id": "u", "message_id": message_id, "kind": "view", "item_id": "i", "text": text}
        message = {**fields, "version": version, "occurred_at": "2026-11-01T00:00:00Z"}
        self.servers.source.append(0, b"u", json.dumps(message).encode(), PUBLISHED)

    def run(self) -> BatchRef:
        """One ingest run: every upsert is tried, and the first error ends the run before its commit."""
        ref = claim_and_stage("events", 0, self.settings.pipeline, self.ports.stage)
        assert ref is not None
        embed(ref, self.ports.embed)
        errors = []
        for sink in self.ports.sinks.values():
            try:
                upsert(ref, sink)
            except RefusedEventsError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        commit(ref, self.ports.commit)
        return ref

    def texts(self) -> dict[str, dict[str, str]]:
        """The text of each event by message, in every store."""
        rows = {name: self.servers.rows(name).values() for name in STORES}
        return {name: {row["message_id"]: row["text"] for row in stored} for name, stored in rows.items()}

    def letters(self) -> list[tuple[str, str, bytes | None]]:
        return [(letter.origin, str(letter.reason), letter.record.value) for letter in self.servers.dead_letters.read()]


@pytest.fixture(params=STORES)
def shard(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shard]:
    """Each store in turn refuses poison."""
    address = f"memory://refusals-{request.node.name}"
    variables = {f"MILLRACE_{name}": address for name in NAMES} | {"MILLRACE_BATCH_PATH": tmp_path.as_uri()}
    settings = EnvironmentSettings(variables)
    with bootstrap.open_replay_ports(settings) as ports:
        yield Shard(memory_servers(address), ports, settings, request.param)


def test_the_next_run_makes_a_dead_letter_of_it(shard: Shard) -> None:
    """The run that finds it commits nothing; the next one stores its neighbours and counts it by the store's name."""
    for number in range(5):
        shard.publish(f"m{number}", "poison" if number == 2 else f"text {number}")
    name = shard.sink.name
    with pytest.raises(RefusedEventsError, match=f"{name} refuses 1 of 5 events"):
        shard.run()
    ledger = shard.ports.stage.ledger
    assert ledger.read_position("events", 0) is None
    assert shard.letters() == []
    ref = shard.run()
    expected = {f"m{number}": f"text {number}" for number in (0, 1, 3, 4)}
    assert shard.texts() == dict.fromkeys(STORES, expected)
    poison = shard.servers.source._partitions[0].records[2].value
    assert shard.letters() == [("events-0-2", f"refused_by_{name}", poison)]
    staged = ledger.read_staged(ref)
    assert staged is not None
    assert (staged[1].delivered, staged[1].valid, staged[1].dead_letters) == (5, 4, {f"refused_by_{name}": 1})
    assert ledger.read_position("events", 0) == 5
    assert ledger.read_refused(ref) == []


def test_an_acceptable_revision_of_the_same_batch_takes_its_place(shard: Shard) -> None:
    """Only the refused content is a dead letter, each time it was delivered; an older one is stored everywhere."""
    shard.publish("m", "an older text", version=1)
    shard.publish("m", "poison", version=2)
    shard.publish("m", "poison", version=2)
    with pytest.raises(RefusedEventsError):
        shard.run()
    shard.run()
    assert shard.texts() == {key: {"m": "an older text"} for key in STORES}
    assert [origin for origin, *_ in shard.letters()] == ["events-0-1", "events-0-2"]


def test_a_stored_revision_that_it_replaced_is_removed_everywhere(shard: Shard) -> None:
    """No store keeps what the others have lost; a replay of the older message stores it again (ADR 0023)."""
    shard.publish("m", "an older text", version=1)
    shard.run()
    shard.publish("m", "poison", version=2)
    with pytest.raises(RefusedEventsError):
        shard.run()
    shard.run()
    assert shard.texts() == {key: {} for key in STORES}
    _replay(shard, ShardRange(0, 0, 1))
    assert shard.texts() == {key: {"m": "an older text"} for key in STORES}


def test_a_replay_goes_on_without_it(shard: Shard) -> None:
    """The slice is staged again in the same task, and the stores are as after the live run."""
    shard.publish("a", "text")
    shard.publish("b", "poison")
    _replay(shard, ShardRange(0, 0, 2))
    assert shard.texts() == {key: {"a": "text"} for key in STORES}
    assert [origin for origin, *_ in shard.letters()] == ["events-0-1"]


def _replay(shard: Shard, wanted: ShardRange) -> None:
    position = ReplayPosition(shard.ports.commit.files, "run", 0)
    replay("events", wanted, 10, NO_LIMITS, shard.ports, position, lambda *_: None)


def _ports(folder: Path, sink: Sink, events: Sequence[Any], percent: int = 5) -> tuple[BatchRef, UpsertPorts]:
    ledger = MemoryLedger(MemoryTables())
    ports = UpsertPorts(ArrowFiles(folder.as_uri()), sink, None, ledger, percent)
    batch = batch_of(events)
    ref = ledger.claim_range(batch.ref)
    ports.files.write(events_file(ref), batch.events)
    return ref, ports


class RecordingSink:
    """Remembers what was written to it, batch by batch."""

    name = "recording"

    def __init__(self) -> None:
        self.stored: set[str] = set()

    def upsert(self, batch: StagedBatch) -> int:
        self.stored.update(batch.events["event_id"].to_pylist())
        return int(batch.events.num_rows)

    def delete(self, rows: pa.Table) -> int:
        raise NotImplementedError

    def count(self) -> int:
        return len(self.stored)

    def close(self) -> None:
        pass


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_exactly_the_refused_events_are_found(tmp_path_factory: pytest.TempPathFactory, poison: list[bool]) -> None:
    """Whatever their number and places; the others are stored, with few attempts for each refused one."""
    events = [event(message_id=str(n), text="poison" if bad else "text") for n, bad in enumerate(poison)]
    refused = {each.event_id for each, bad in zip(events, poison, strict=True) if bad}
    store = RecordingSink()
    sink = RefusingSink(store)
    ref, ports = _ports(tmp_path_factory.mktemp("refused"), sink, events, percent=100)
    if refused:
        with pytest.raises(RefusedEventsError, match=f"refuses {len(refused)} of {len(events)} events"):
            upsert(ref, ports)
    else:
        assert upsert(ref, ports) == len(events)
    assert {refusal.event_id for refusal in ports.ledger.read_refused(ref)} == refused
    assert store.stored == {each.event_id for each in events} - refused
    assert sink.calls <= 1 + 2 * len(refused) * (len(events).bit_length() + 1)


def test_a_store_may_refuse_so_many(tmp_path: Path) -> None:
    """Up to the share that the setting allows, of a batch that is large enough to judge."""
    texts = ["poison"] * 20 + ["text"] * 180
    events = [event(message_id=str(n), text=text) for n, text in enumerate(texts)]
    ref, ports = _ports(tmp_path, RefusingSink(RecordingSink()), events, percent=10)
    with pytest.raises(RefusedEventsError, match="refuses 20 of 200 events"):
        upsert(ref, ports)


def test_a_store_that_refuses_too_much_is_at_fault(tmp_path: Path) -> None:
    """Its events are not given up: nothing is recorded, and the error names the setting that allows it."""
    sink = RefusingSink(RecordingSink())
    ref, ports = _ports(tmp_path, sink, [event(message_id=str(n), text="poison") for n in range(100)])
    with pytest.raises(PermanentError, match=r"refuses more than 10 of 100 events.*MILLRACE_MAX_REJECT_PERCENT"):
        upsert(ref, ports)
    assert ports.ledger.read_refused(ref) == []


def test_an_outage_while_it_searches_is_no_refusal(tmp_path: Path) -> None:
    """The task is retried, and until then nothing is recorded."""

    class Unavailable(RefusingSink):
        def upsert(self, batch: StagedBatch) -> int:
            if self.calls:
                raise TransientError("unavailable")
            return super().upsert(batch)

    events = [event(message_id=str(n), text="poison") for n in range(4)]
    ref, ports = _ports(tmp_path, Unavailable(RecordingSink()), events)
    with pytest.raises(TransientError):
        upsert(ref, ports)
    assert ports.ledger.read_refused(ref) == []
