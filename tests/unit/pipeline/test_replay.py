"""A part of the topic is ingested again: the plan, the slices, and what a failure leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include import bootstrap
from include.domain.batch import BatchMode, BatchRef, StagedBatch
from include.errors import OffsetsGoneError, TransientError
from include.memory_servers import MemoryServers, memory_servers
from include.pipeline.commit import commit
from include.pipeline.embed import embed
from include.pipeline.replay import Bound, ReplayPorts, ReplayPosition, ShardRange, plan, replay
from include.pipeline.stage import StageLimits, claim_and_stage, stage
from include.pipeline.upsert import UpsertPorts, upsert
from include.settings import EnvironmentSettings
from include.sources.memory import MemorySource

NAMES = ["MONGO_URI", "MILVUS_URI", "NEO4J_URI", "WAREHOUSE_DSN", "EMBED_URL", "KAFKA_BOOTSTRAP"]
ALL = ShardRange(0, 0, 10)


class Shard:
    """One shard with ten messages, of which one is not an event; a live run has ingested them."""

    def __init__(self, servers: MemoryServers, ports: ReplayPorts, settings: EnvironmentSettings) -> None:
        self.servers, self.ports = servers, ports
        self.position = ReplayPosition(ports.commit.files, "manual__2026-11-25T00:00:00+00:00", 0)
        self.progress: list[tuple[int, int]] = []
        for n in range(10):
            event = {"user_id": f"u{n}", "message_id": "m", "kind": "view", "item_id": "i", "text": f"text {n}"}
            message = json.dumps(event | {"occurred_at": "2026-11-01T00:00:00Z"})
            servers.source.append(0, b"u", b"no" if n == 4 else message.encode(), 2_000_000_000_000 + n)
        ref = claim_and_stage("events", 0, settings.pipeline, ports.stage)
        assert ref is not None
        embed(ref, ports.embed)
        for sink in ports.sinks.values():
            upsert(ref, sink)
        commit(ref, ports.commit)

    def replay(self, wanted: ShardRange = ALL, size: int = 4, max_bytes: int = 10**9) -> int:
        return replay("events", wanted, size, StageLimits(max_bytes), self.ports, self.position, self._see)

    def _see(self, done: int, total: int) -> None:
        self.progress.append((done, total))

    def rows(self) -> dict[str, dict[Any, Any]]:
        """The rows of every store by identity, and which object each one is: a rewritten row is another object."""
        return {name: {key: id(row) for key, row in self.servers.rows(name).items()} for name in self.ports.sinks}

    def failing(self, name: str) -> None:
        """That store is down from the second slice on."""
        ports = self.ports.sinks[name]
        sinks = {**self.ports.sinks, name: replace(ports, sink=FailingSink(ports))}
        self.ports = replace(self.ports, sinks=sinks)


class FailingSink:
    """A sink whose server becomes unavailable after one batch."""

    def __init__(self, ports: UpsertPorts) -> None:
        self.real, self.batches = ports.sink, 0

    def upsert(self, batch: StagedBatch) -> int:
        self.batches += 1
        if self.batches > 1:
            raise TransientError("unavailable")
        return self.real.upsert(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def shard(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shard]:
    """A shard on servers of this test only."""
    address = f"memory://replay-{request.node.name}"
    variables = {f"MILLRACE_{name}": address for name in NAMES} | {"MILLRACE_BATCH_PATH": tmp_path.as_uri()}
    settings = EnvironmentSettings(variables)
    with bootstrap.open_replay_ports(settings) as ports:
        yield Shard(memory_servers(address), ports, settings)


def test_a_replay_restores_what_every_store_lost(shard: Shard) -> None:
    """Slice by slice, with progress; offsets stay where they are and no batch stays open."""
    before = {name: set(rows) for name, rows in shard.rows().items()}
    for name in shard.ports.sinks:
        shard.servers.rows(name).clear()  # type: ignore[attr-defined]
    assert shard.replay() == 10
    assert {name: set(rows) for name, rows in shard.rows().items()} == before
    assert shard.progress == [(4, 10), (8, 10), (10, 10)]
    ledger = shard.ports.stage.ledger
    assert ledger.find_open("events") == []
    assert ledger.read_position("events", 0) == shard.servers.source.read_committed_offset(0) == 10


def test_a_replay_changes_nothing_where_nothing_changed(shard: Shard) -> None:
    """No row is written again, no hour counts as touched, and no user as changed."""
    tables = shard.servers.warehouse.tables
    shard.servers.warehouse.engagement.clear_hours(shard.servers.warehouse.engagement.read_touched_hours())
    shard.servers.warehouse.activity.clear_changed_users(shard.servers.warehouse.activity.read_changed_users())
    before = shard.rows()
    assert shard.replay() == 10
    assert shard.rows() == before
    assert len(tables.events) == 9
    assert shard.servers.warehouse.engagement.read_touched_hours() == []
    assert shard.servers.warehouse.activity.read_changed_users() == []


@pytest.mark.parametrize("name", ["mongo", "milvus", "neo4j", "warehouse"])
def test_a_replay_goes_on_where_it_failed(shard: Shard, name: str) -> None:
    """Whichever store fails, the next attempt begins with that slice, and the whole range is stored."""
    before = {each: set(rows) for each, rows in shard.rows().items()}
    shard.servers.rows(name).clear()  # type: ignore[attr-defined]
    working = shard.ports
    shard.failing(name)
    with pytest.raises(TransientError):
        shard.replay()
    assert shard.position.read() == 4
    shard.ports, shard.progress = working, []
    shard.replay()
    assert shard.progress == [(8, 10), (10, 10)]
    assert {each: set(rows) for each, rows in shard.rows().items()} == before
    assert shard.ports.stage.ledger.find_open("events") == []
    assert shard.position.read() is None


def test_a_slice_ends_at_the_byte_budget(shard: Shard) -> None:
    """Every message is replayed all the same, and a repetition with a larger budget uses longer slices."""
    shard.replay(max_bytes=250)
    assert shard.progress[0] == (2, 10)
    assert shard.progress[-1] == (10, 10)
    assert shard.ports.stage.ledger.find_open("events") == []
    shard.progress = []
    shard.replay()
    assert shard.progress == [(4, 10), (8, 10), (10, 10)]


def test_a_live_batch_may_be_claimed_meanwhile(shard: Shard) -> None:
    """A replay neither takes nor moves the claim of a live run of its shard."""
    shard.servers.source.append(0, b"u", b"{}", 2_000_000_000_100)
    live = shard.ports.stage.ledger.claim("events", 0, shard.servers.source.read_offsets(0), 100)
    assert live == BatchRef("events", 0, 10, 11, BatchMode.LIVE, epoch=1)
    stage(live, shard.ports.stage)
    shard.replay(ShardRange(0, 0, 11))
    assert shard.servers.source.read_committed_offset(0) == 10
    assert shard.ports.stage.ledger.read_staged(BatchRef("events", 0, 8, 11, BatchMode.RANGE)) is not None
    commit(live, shard.ports.commit)
    assert shard.ports.stage.ledger.read_position("events", 0) == 11


def _topic() -> MemorySource:
    """Two shards with ten messages each, one every 10 ms from 1,000."""
    source = MemorySource()
    for shard in (0, 1):
        for n in range(10):
            source.append(shard, b"u", b"{}", 1_000 + 10 * n)
    return source


@pytest.mark.parametrize(
    ("start", "end", "offsets"),
    [
        (Bound(offset=0), None, (0, 10)),
        (Bound(offset=3), Bound(offset=7), (3, 7)),
        (Bound(offset=3), Bound(offset=99), (3, 10)),
        (Bound(published_at=1_015), Bound(published_at=1_030), (2, 3)),
        (Bound(published_at=0), Bound(offset=1), (0, 1)),
    ],
)
def test_a_plan_resolves_offsets_and_times(start: Bound, end: Bound | None, offsets: tuple[int, int]) -> None:
    """In each shard that was chosen; the end is exclusive and never beyond the newest message."""
    assert plan(_topic(), [0, 1], start, end) == [ShardRange(0, *offsets), ShardRange(1, *offsets)]
    assert plan(_topic(), [1], start, end) == [ShardRange(1, *offsets)]


@pytest.mark.parametrize("start", [Bound(offset=10), Bound(published_at=1_091)])
def test_a_plan_without_messages_is_empty(start: Bound) -> None:
    """A range after the newest message, or in an empty topic, has nothing to replay."""
    assert plan(_topic(), [0, 1], start, None) == []
    assert plan(MemorySource(), [0], Bound(offset=0), None) == []


@pytest.mark.parametrize("start", [Bound(offset=2), Bound(published_at=1_029)])
def test_removed_messages_are_named(start: Bound) -> None:
    """Nothing is skipped silently: the error has the oldest offset, its time, and the other way to fill the stores."""
    source = _topic()
    source.trim(1, 3)
    with pytest.raises(OffsetsGoneError, match=r"shard 1 begins at offset 3, published 1970-01-01T00:00:01Z.*rebuild"):
        plan(source, [0, 1], start, None)
    assert plan(source, [1], Bound(offset=3), None) == [ShardRange(1, 3, 10)]
    assert plan(source, [1], Bound(published_at=1_030), None) == [ShardRange(1, 3, 10)]
    source.trim(1, 10)
    with pytest.raises(OffsetsGoneError, match="shard 1 begins at offset 10, and has no message"):
        plan(source, [1], start, None)
