"""A small correct state on the real servers, made by the pipeline's own steps, any of which a test may break."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from typing import Any
from uuid import uuid4

import neo4j
import psycopg2
import pymongo

from demo.malformed import MALFORMED
from include import bootstrap
from include.bootstrap import SINKS
from include.domain.batch import BatchMode, BatchRef
from include.domain.identity import shard_of
from include.pipeline.aggregate import aggregate
from include.pipeline.commit import CommitPorts, commit
from include.pipeline.embed import EmbedPorts, embed
from include.pipeline.precompute import PrecomputePorts, build_profiles, publish, recommend, select_users
from include.pipeline.replay import Bound, plan
from include.pipeline.stage import StagePorts, claim_and_stage, stage
from include.pipeline.upsert import UpsertPorts, upsert
from include.ports import Engagement
from include.settings import EnvironmentSettings, MilvusSettings
from include.sources.kafka_producer import AckedProducer, Publisher
from include.sources.kafka_topics import ensure_topics
from tests.chaos.checker import check
from tests.chaos.checker_readers import open_milvus
from tests.chaos.expected_topic import read_topic
from tests.chaos.observations import Observations, Violations

SHARDS = 2
#: Enough texts for a centre.
TEXTS = 110


class ChaosSettings(EnvironmentSettings):
    """Collections of their own in Milvus."""

    @cached_property
    def milvus(self) -> MilvusSettings:
        name = self.embed.model
        return replace(super().milvus, message_collection=f"m_{name}", profile_collection=f"p_{name}")


@dataclass
class Steps:
    """The ports of every step. A test replaces one with a broken variant; a sink that is None is skipped."""

    stage: StagePorts
    embed: EmbedPorts
    sinks: Mapping[str, UpsertPorts | None]
    commit: CommitPorts
    engagement: Engagement
    precompute: PrecomputePorts


class Altered:
    """A port with some methods replaced."""

    def __init__(self, port: Any, **methods: Callable[..., Any]) -> None:
        self._port = port
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods[name] if name in self._methods else getattr(self._port, name)


class ChaosState:
    """The topic and the stores of one run. User and item ids begin with ``prefix``."""

    def __init__(self, environment: Mapping[str, str], steps: Steps, publisher: Publisher) -> None:
        self.environment = environment
        self.settings = ChaosSettings(environment)
        self.prefix = f"{self.settings.embed.model}-"
        self.steps = steps
        self._publisher = publisher
        self._runs = count()

    def message(self, user: str, message_id: str, **fields: Any) -> dict[str, Any]:
        """The fields of a purchase, with these changes; None removes a field.

        It is so old that it does not change how popular an item is that was bought lately.
        """
        required = {"kind": "purchase", "occurred_at": "2024-03-01T10:00:00Z", "item_id": "item1"}
        message = {"user_id": self.prefix + user, "message_id": message_id, **required, **fields}
        if message["item_id"] is not None:
            message["item_id"] = self.prefix + message["item_id"]
        return {name: value for name, value in message.items() if value is not None}

    @property
    def repeated(self) -> dict[str, Any]:
        """A message that every store has already: another delivery changes nothing."""
        return self.message("user2", "loses text", version=1)

    def publish(self, *messages: Mapping[str, Any] | bytes) -> None:
        """Publish messages to the shards of their users; bytes go to the first shard."""
        for message in messages:
            if isinstance(message, bytes):
                self._publisher.send(0, None, message)
            else:
                user = message["user_id"]
                self._publisher.send(shard_of(user, SHARDS), user.encode(), json.dumps(message).encode())
        self._publisher.flush()

    def ingest(self, steps: Steps | None = None, since: int | None = None) -> None:
        """Ingest every live batch of every shard, or that range once."""
        steps = steps or self.steps
        for shard in range(SHARDS):
            while ref := self._stage(steps, shard, since):
                embed(ref, steps.embed)
                for ports in filter(None, steps.sinks.values()):
                    upsert(ref, ports)
                commit(ref, steps.commit)
                if since is not None:
                    break

    def derive(self, steps: Steps | None = None, *, lists: bool = True) -> None:
        """Recount the touched hours and rebuild profiles and lists; without lists it is faster."""
        steps = steps or self.steps
        aggregate(steps.engagement, None)
        ref = select_users(f"{self.prefix}-{next(self._runs)}", self.settings.pipeline, steps.precompute)
        for chunk in range(ref.chunks):
            build_profiles(ref, chunk, steps.precompute)
        if not lists:
            activity = self.steps.precompute.activity
            activity.clear_changed_users(activity.read_changed_users())
            return
        for chunk in range(ref.chunks):
            recommend(ref, chunk, steps.precompute)
        publish(ref, self.settings.pipeline, steps.precompute)

    def replay(self, since: int = 0) -> None:
        """Ingest everything published since then (ms since 1970) again, as a backfill does."""
        self.ingest(since=since)
        self.derive(lists=False)

    def without(self, sink: str) -> Steps:
        """The steps, but for one sink."""
        return replace(self.steps, sinks={**self.steps.sinks, sink: None})

    def with_sink(self, name: str, **methods: Callable[..., Any]) -> Steps:
        """The steps with these methods of a sink in place of its own."""
        ports = self.steps.sinks[name]
        assert ports is not None
        altered: Any = Altered(ports.sink, **methods)
        return replace(self.steps, sinks={**self.steps.sinks, name: replace(ports, sink=altered)})

    def with_stage(self, port: str, **methods: Callable[..., Any]) -> Steps:
        """The steps with these methods of a port of ``stage`` in place of its own."""
        altered: dict[str, Any] = {port: Altered(getattr(self.steps.stage, port), **methods)}
        return replace(self.steps, stage=replace(self.steps.stage, **altered))

    def with_precompute(self, port: str, **methods: Callable[..., Any]) -> Steps:
        """The steps with these methods of a port of the precompute in place of its own."""
        altered: dict[str, Any] = {port: Altered(getattr(self.steps.precompute, port), **methods)}
        return replace(self.steps, precompute=replace(self.steps.precompute, **altered))

    def query(self, statement: str, **parameters: Any) -> None:
        """Run a statement in the graph."""
        settings = self.settings.neo4j
        with neo4j.GraphDatabase.driver(settings.uri, auth=(settings.user, settings.password)) as driver:
            driver.execute_query(statement, parameters)

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement in the warehouse."""
        with closing(psycopg2.connect(self.settings.warehouse.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            connection.commit()

    def check(self, observations: Observations, letters: str | None = None) -> Violations:
        """What the checker finds, with another topic of dead letters if one is named."""
        settings = ChaosSettings({**self.environment, **({"MILLRACE_DEAD_LETTER_TOPIC": letters} if letters else {})})
        return check(settings, observations, self.prefix)

    def copy_letters(self, *extra: tuple[bytes, bytes | None, Mapping[str, bytes]]) -> str:
        """A new topic with every dead letter, and with more of them: (key, value, headers). Returns its name."""
        kafka = replace(self.settings.kafka, dead_letter_topic=f"{self.prefix}letters{next(self._runs)}")
        ensure_topics(kafka, SHARDS)
        letters = [(m.key, m.value, m.headers) for m in read_topic(kafka, self.settings.kafka.dead_letter_topic)]
        with closing(AckedProducer(kafka)) as producer:
            for key, value, headers in [*letters, *extra]:
                producer.send(kafka.dead_letter_topic, key=key, value=value, headers=list(headers.items()))
            producer.flush()
        return kafka.dead_letter_topic

    def _stage(self, steps: Steps, shard: int, since: int | None) -> BatchRef | None:
        topic = self.settings.kafka.topic
        if since is None:
            return claim_and_stage(topic, shard, self.settings.pipeline, steps.stage)
        for each in plan(steps.stage.source, [shard], Bound(published_at=since), None):
            ref = steps.stage.ledger.claim_range(BatchRef(topic, shard, each.start, each.end, BatchMode.RANGE))
            return stage(ref, steps.stage)[0]
        return None


def correct_messages(state: ChaosState) -> Iterator[dict[str, Any] | bytes]:
    """Repeats, revisions in both orders, contents that gain and lose text and item, and malformed messages."""
    message = state.message
    today = datetime.now(UTC)  # so that the items are popular lately
    kinds = ("view", "click", "purchase", "return", "message")
    for number in range(TEXTS):
        text = f"text {number} of {number % 7} and {number % 11}"
        at = (today - timedelta(days=number % 9, hours=number % 24, milliseconds=number)).isoformat()
        fields = {"kind": kinds[number % 5], "item_id": f"item{number % 13}", "occurred_at": at, "text": text}
        yield message(f"user{number % 10}", f"m{number}", campaign_id=f"{state.prefix}c{number % 3}", **fields)
    yield message("user3", "moves", text="e", occurred_at="2024-02-02T02:02:02Z")  # alone in its hour
    yield from [message("user1", f"m{number}", kind="view") for number in (1, 1, 11)]  # an equal version, other content
    yield message("user2", "loses text", text="a")
    yield message("user2", "loses text", version=1)
    yield message("user2", "gains text", version=2, text="b c")
    yield message("user2", "gains text", version=1)
    yield message("user3", "loses item", text="d", value=1.5)
    yield message("user3", "loses item", version=1, text="d", item_id=None, kind="message")
    moved = {"kind": "view", "occurred_at": "2024-03-02T11:59:59.9999Z", "item_id": "item2", "campaign_id": "spring"}
    yield message("user3", "moves", version=1, text="e", **moved)
    yield from [message("twice", name, text=name[:4]) for name in ("same 1", "same 2", "once")]
    yield message("without texts", "one", value=0.1, **{"$odd.name": {"＄": [1, 2.5, None]}, "big": 2**62})
    yield message("without texts", "old", occurred_at="1900-01-01T00:00:00Z")
    yield message("without texts", "old", occurred_at="1900-01-01T00:00:00Z")
    valid = message("user4", "invalid", text="e")
    yield from (malform(valid) for malform in MALFORMED.values())


@contextmanager
def open_state(environment: Mapping[str, str]) -> Iterator[ChaosState]:
    """The state for these settings, with every message of ``correct_messages`` in every store."""
    settings = ChaosSettings(environment)
    ensure_topics(settings.kafka, SHARDS)
    with ExitStack() as stack:
        steps = _open_steps(settings, stack)
        publisher = Publisher(settings.kafka)
        stack.callback(publisher.close)
        stack.callback(_drop, settings)
        state = ChaosState(environment, steps, publisher)
        messages = list(correct_messages(state))
        # Two batches, and the first message again: revisions meet in the batch, across batches, and repeat.
        state.publish(*messages[: TEXTS + 5])
        state.ingest()
        state.derive(lists=False)
        state.publish(*messages[TEXTS + 5 :], messages[0])
        state.ingest()
        state.derive()
        yield state


def _open_steps(settings: ChaosSettings, stack: ExitStack) -> Steps:
    enter = stack.enter_context
    return Steps(
        stage=enter(bootstrap.open_stage_ports(settings)),
        embed=enter(bootstrap.open_embed_ports(settings)),
        sinks={sink: enter(bootstrap.open_upsert_ports(sink, settings)) for sink in SINKS},
        commit=enter(bootstrap.open_commit_ports(settings)),
        engagement=enter(bootstrap.open_aggregate_port(settings)),
        precompute=enter(bootstrap.open_precompute_ports(settings)),
    )


def _drop(settings: ChaosSettings) -> None:
    """Drop the collections of this state: loaded ones take memory."""
    with pymongo.MongoClient[dict[str, Any]](settings.mongo.uri) as mongo:
        mongo.drop_database(settings.mongo.database)
    with closing(open_milvus(settings.milvus)) as milvus:
        for alias in (settings.milvus.message_collection, settings.milvus.profile_collection):
            if milvus.has_collection(alias, timeout=10):
                milvus.drop_alias(alias, timeout=10)
                milvus.drop_collection(f"{alias}_{settings.embed.generation.name}", timeout=10)


def unique_name() -> str:
    """A name that no other test uses."""
    return f"t{uuid4().hex[:12]}"
