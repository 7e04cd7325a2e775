"""A worker that dies at any named point, once or twice, leaves every store as if it had never died."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from include.bootstrap import SINKS
from include.domain.event import Event, InvalidEventError, decode
from include.settings import EnvironmentSettings, KafkaSettings, MongoSettings
from include.sources.kafka import KafkaDeadLetters, KafkaSource
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.conftest import Servers
from tests.contract.crash_worker import POINTS, REFUSAL_POINTS, CrashPoint, Side, run
from tests.contract.probes import MilvusProbe, MongoProbe, Neo4jProbe, Probe, Stored, StoredEvents, WarehouseProbe

pytestmark = pytest.mark.servers("kafka", "mongo", "milvus", "neo4j", "postgres")

#: How long one run may take before it counts as hanging.
RUN_S = 120


def message(user: str, message_id: str, **fields: Any) -> bytes:
    required = {"kind": "purchase", "occurred_at": "2020-01-01T00:00:00Z"}
    return json.dumps({"user_id": user, "message_id": message_id, **required, **fields}).encode()


def earlier_messages(user: str) -> list[bytes]:
    """What the stores have before the run that crashes."""
    return [
        message(user, "loses text", text="a", item_id="i"),
        message(user, "loses item", text="b", item_id="i"),
        message(user, "is newer", version=5, text="c", item_id="i"),
    ]


def later_messages(user: str) -> list[bytes]:
    """A batch with new events, duplicates, newer and older revisions, and malformed messages."""
    return [
        message(user, "loses text", version=1, item_id="j"),
        message(user, "loses item", version=1, text="b"),
        message(user, "is newer", version=4, text="d", item_id="j"),
        message(user, "new", text="e", item_id="i"),
        message(user, "new", text="e", item_id="i"),
        message(user, "new", version=1, text="f", item_id="j"),
        message(user, "only text", kind="message", text="g"),
        message(user, "only item", item_id="i"),
        b"{",
        message(user, "x", occurred_at="yesterday"),
    ]


@dataclass(frozen=True)
class Shard:
    """One shard on the real servers, and readers for everything that a run writes."""

    environment: dict[str, str]
    user: str
    kafka: KafkaSettings
    source: KafkaSource
    letters: KafkaDeadLetters
    warehouse: Warehouse
    probes: dict[str, Probe]
    workers: ForkServerContext

    def publish(self, messages: list[bytes]) -> None:
        with closing(Publisher(self.kafka)) as publisher:
            for payload in messages:
                publisher.send(0, self.user.encode(), payload)
            publisher.flush()

    def run(self, crash: CrashPoint | None = None) -> int | None:
        """Run in a process of its own. Returns its exit code, negative if a signal ended it."""
        worker = self.workers.Process(target=run, args=(self.environment, crash))
        worker.start()
        worker.join(RUN_S)
        if worker.is_alive():
            worker.kill()
            worker.join()
            raise AssertionError("the run hangs")
        return worker.exitcode

    def check_stores(self, messages: list[bytes]) -> None:
        """Every store has exactly the winning revision of each valid event that belongs in it."""
        winners = select_winners(messages)
        for sink, probe in self.probes.items():
            column = SINKS[sink].needs
            expected = {
                key: event for key, event in winners.items() if column is None or getattr(event, column) is not None
            }
            assert with_items(probe.read(), winners) == {key: stored(event) for key, event in expected.items()}, sink

    def check_offsets(self, start: int, high: int, messages: list[bytes]) -> None:
        """No offset is ahead of what the stores have, and the group's follows the ledger's."""
        position = self.warehouse.ledger.read_position(self.kafka.topic, 0)
        committed = self.source.read_committed_offset(0)
        assert position in (start, high)
        assert committed in (start, position)
        if position == high:
            self.check_stores(messages)


def select_winners(messages: list[bytes]) -> dict[str, Event]:
    """The revision with the highest (version, digest) of each identity, by event id."""
    winners: dict[str, Event] = {}
    for payload in messages:
        try:
            event = decode(payload)
        except InvalidEventError:
            continue
        best = winners.get(event.event_id)
        if best is None or (event.version, event.digest) > (best.version, best.digest):
            winners[event.event_id] = event
    return winners


def stored(event: Event) -> Stored:
    return Stored(event.user_id, event.occurred_at, event.version, event.digest, event.item_id)


def with_items(events: StoredEvents, winners: dict[str, Event]) -> StoredEvents:
    """Milvus stores no items, so its rows get those of the events they are compared with."""
    return {
        key: row if row.item is not None else Stored(row.user, row.at, row.version, row.digest, winners[key].item_id)
        for key, row in events.items()
    }


@pytest.fixture(scope="module")
def workers() -> ForkServerContext:
    """Starts processes from one that has loaded every driver and has no connection."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.contract.crash_worker"])
    return context


@pytest.fixture
def shard(
    servers: Servers,
    unique: str,
    kafka_settings: KafkaSettings,
    mongo_settings: MongoSettings,
    warehouse_dsn: str,
    workers: ForkServerContext,
    tmp_path: Path,
) -> Iterator[Shard]:
    """A shard whose topic and stores have the events of one committed batch."""
    environment = {
        **servers.environment("milvus"),
        **servers.environment("neo4j"),
        "MILLRACE_KAFKA_GROUP": kafka_settings.group,
        "MILLRACE_TOPIC": kafka_settings.topic,
        "MILLRACE_DEAD_LETTER_TOPIC": kafka_settings.dead_letter_topic,
        "MILLRACE_MONGO_DATABASE": mongo_settings.database,
        "MILLRACE_WAREHOUSE_DSN": warehouse_dsn,
        "MILLRACE_EMBED_URL": "memory://crash",
        "MILLRACE_BATCH_PATH": tmp_path.as_uri(),
        "MILLRACE_SHARDS": "1",
    }
    ensure_topics(kafka_settings, 1)
    settings = EnvironmentSettings(environment)
    with ExitStack() as stack:
        probes: dict[str, Probe] = {
            "mongo": MongoProbe(settings.mongo),
            "milvus": MilvusProbe(settings.milvus, settings.embed.generation, unique),
            "neo4j": Neo4jProbe(settings.neo4j, unique),
            "warehouse": WarehouseProbe(warehouse_dsn),
        }
        assert probes.keys() == SINKS.keys()
        for probe in probes.values():
            stack.enter_context(closing(probe))
        opened = Shard(
            environment,
            unique,
            kafka_settings,
            stack.enter_context(closing(KafkaSource(kafka_settings))),
            stack.enter_context(closing(KafkaDeadLetters(kafka_settings))),
            stack.enter_context(closing(Warehouse(settings.warehouse))),
            probes,
            workers,
        )
        opened.publish(earlier_messages(unique))
        assert opened.run() == 0
        yield opened


@pytest.mark.parametrize("crashes", [1, 2])
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_may_die_at_any_point(shard: Shard, point: str, side: Side, crashes: int) -> None:
    """After a crash in the first, or in the first and second attempt, the next run leaves all stores complete."""
    earlier, later = earlier_messages(shard.user), later_messages(shard.user)
    start, high = len(earlier), len(earlier) + len(later)
    shard.publish(later)
    for _ in range(crashes):
        # Once the ledger has the batch, no run does it again, so that there is nothing to die in.
        if shard.warehouse.ledger.read_position(shard.kafka.topic, 0) == start:
            assert shard.run(CrashPoint(point, side)) == -9
        shard.check_offsets(start, high, earlier + later)
    assert shard.run() == 0
    shard.check_stores(earlier + later)
    assert shard.warehouse.ledger.read_position(shard.kafka.topic, 0) == shard.source.read_committed_offset(0) == high
    letters = [(letter.record.offset, letter.record.value) for letter in shard.letters.read()]
    assert letters == [(high - 2, later[-2]), (high - 1, later[-1])]


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("point", REFUSAL_POINTS)
def test_a_worker_may_die_while_a_refused_event_becomes_a_dead_letter(shard: Shard, point: str, side: Side) -> None:
    """The next run leaves the event in no store and its message in one dead letter; its neighbours are stored."""
    shard.warehouse.database.execute("ALTER TABLE events ADD CHECK (text <> 'poison') NOT VALID")
    earlier, poison = earlier_messages(shard.user), message(shard.user, "poison", text="poison", item_id="i")
    neighbours = [message(shard.user, "loses item", version=1, text="b"), message(shard.user, "new", item_id="i")]
    shard.publish([neighbours[0], poison, neighbours[1]])
    assert shard.run(CrashPoint(point, side)) == -9
    shard.check_offsets(len(earlier), len(earlier) + 3, earlier + neighbours)
    assert shard.run() == 0
    shard.check_stores(earlier + neighbours)
    assert shard.warehouse.ledger.read_position(shard.kafka.topic, 0) == len(earlier) + 3
    letters = [(letter.record.offset, letter.record.value, letter.reason) for letter in shard.letters.read()]
    assert letters == [(len(earlier) + 1, poison, "refused_by_warehouse")]
