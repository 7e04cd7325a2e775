"""Bugs for the checker to find. Each is a step of the pipeline gone wrong, and is mended when its context ends.

A context yields what was observed meanwhile, and the topic of dead letters if it is another one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from confluent_kafka import Consumer, TopicPartition

from include.domain.batch import BatchRef, StageCounts, StagedBatch
from include.domain.identity import event_id, shard_of
from include.sinks.milvus import MilvusSink
from include.sinks.mongo import MongoSink
from tests.chaos.checker_ledger import read_progress
from tests.chaos.checker_lists import read_lists, unpack
from tests.chaos.expected_topic import read_topic
from tests.chaos.observations import Observations, OffsetSample, Position, VersionWatch
from tests.contract.chaos_state import SHARDS, Altered, ChaosState


class Planted(NamedTuple):
    """What the checker is given."""

    observations: Observations = Observations(converged=True)
    letters: str | None = None


class Bug(NamedTuple):
    """``plant`` makes the mistake; the checker must report exactly these invariants."""

    plant: Callable[[ChaosState], AbstractContextManager[Planted]]
    breaks: frozenset[int]


BUGS: dict[str, Bug] = {}

type _Planter = Callable[[ChaosState], Iterator[Planted]]


def _breaks(*invariants: int) -> Callable[[_Planter], _Planter]:
    def register(plant: _Planter) -> _Planter:
        BUGS[plant.__name__] = Bug(contextmanager(plant), frozenset(invariants))
        return plant

    return register


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# --- a store


@_breaks(1, 5)
def commit_without_waiting_for_neo4j(state: ChaosState) -> Iterator[Planted]:
    since = _now_ms()
    state.publish(state.message("user1", "early commit"))
    state.ingest(state.without("neo4j"))
    state.derive(lists=False)
    yield Planted()
    state.replay(since)


@_breaks(2)
def mongo_keeps_the_first_revision(state: ChaosState) -> Iterator[Planted]:
    class FirstWins(MongoSink):
        def _write_compared(self, *_: Any) -> int:
            return 0

    since = _now_ms()
    state.publish(state.message("user2", "gains text", version=3, text="b c"))
    with closing(FirstWins(state.settings.mongo)) as sink:
        state.ingest(state.with_sink("mongo", upsert=sink.upsert))
    state.derive(lists=False)
    yield Planted()
    state.replay(since)


@_breaks(2)
def milvus_takes_an_older_revision(state: ChaosState) -> Iterator[Planted]:
    class LastWins(MilvusSink):
        def _read_stored(self, chunk: Any) -> Any:
            return {}

    def find_nothing(events: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(events.num_rows, dtype=bool), np.zeros(events.num_rows, dtype=bool)

    since = _now_ms()
    state.publish(state.message("user1", "late", version=2, text="the newer one"))
    state.ingest()
    state.publish(state.message("user1", "late", version=1, text="the older one"))
    settings = state.settings
    with closing(LastWins(settings.milvus, settings.embed.generation, SHARDS)) as sink:
        steps = state.with_stage("stored_versions", compare=find_nothing)
        state.ingest(replace(steps, sinks=state.with_sink("milvus", upsert=sink.upsert).sinks))
    state.derive(lists=False)
    yield Planted()
    state.replay(since)


@_breaks(1)
def the_vector_of_a_removed_text_stays(state: ChaosState) -> Iterator[Planted]:
    ports = state.steps.sinks["milvus"]

    def upsert_texts(batch: StagedBatch) -> int:
        assert ports is not None
        return ports.sink.upsert(replace(batch, events=batch.events.filter(pc.is_valid(batch.events["text"]))))

    since = _now_ms()
    state.publish(state.message("user1", "m21", version=7))
    state.ingest(state.with_sink("milvus", upsert=upsert_texts))
    state.derive()
    yield Planted()
    state.replay(since)


@_breaks(2)
def vectors_of_a_batch_change_places(state: ChaosState) -> Iterator[Planted]:
    ports = state.steps.sinks["milvus"]

    def upsert_reversed(batch: StagedBatch) -> int:
        assert ports is not None
        return ports.sink.upsert(replace(batch, vectors=batch.vectors[::-1]))

    messages = [state.message("user1", f"place {text}", text=text) for text in ("one way", "another way")]
    state.publish(*messages)
    state.ingest(state.with_sink("milvus", upsert=upsert_reversed))
    state.derive(lists=False)
    yield Planted()
    # The sink leaves equal revisions alone: only newer ones mend it.
    state.publish(*({**message, "version": 1} for message in messages))
    state.ingest()
    state.derive(lists=False)


@_breaks(2)
def the_embedder_embeds_another_text(state: ChaosState) -> Iterator[Planted]:
    ports = state.steps.embed
    mixed: Any = Altered(ports.embedder, embed=lambda texts: ports.embedder.embed([f"not {text}" for text in texts]))
    message = state.message("user1", "mixed", text="quite something else")
    state.publish(message)
    state.ingest(replace(state.steps, embed=replace(ports, embedder=mixed)))
    state.derive(lists=False)
    yield Planted()
    state.publish({name: value for name, value in {**message, "version": 1}.items() if name != "text"})
    state.ingest()
    state.derive(lists=False)


@_breaks(8)
def the_weight_of_an_edge_is_a_counter(state: ChaosState) -> Iterator[Planted]:
    ports = state.steps.sinks["neo4j"]

    def add_weight(batch: StagedBatch, times: int = 1) -> int:
        assert ports is not None
        count = "MATCH ()-[r:ENGAGED {event_id: id}]->() SET r.weight = r.weight + $times"
        state.query(f"UNWIND $ids AS id {count}", ids=batch.events["event_id"].to_pylist(), times=times)
        return ports.sink.upsert(batch)

    repeated = state.repeated
    state.publish(repeated)
    state.ingest(state.with_sink("neo4j", upsert=add_weight))
    yield Planted()
    state.query(
        "MATCH ()-[r:ENGAGED {event_id: $id}]->() SET r.weight = 1.0",
        id=event_id(repeated["user_id"], repeated["message_id"]),
    )


@_breaks(1)
def a_repeat_creates_another_edge(state: ChaosState) -> Iterator[Planted]:
    repeated = state.repeated
    edge = {"user": repeated["user_id"], "id": event_id(repeated["user_id"], repeated["message_id"])}
    match = "MATCH (u:User {id: $user})-[r:ENGAGED {event_id: $id}]->(i:Item) WITH u, r, i"

    def create(batch: StagedBatch) -> int:
        state.query(f"{match} LIMIT 1 CREATE (u)-[copy:ENGAGED]->(i) SET copy = properties(r)", **edge)
        return int(batch.events.num_rows)

    state.query("DROP CONSTRAINT engaged_event_id")
    try:
        state.publish(repeated)
        state.ingest(state.with_sink("neo4j", upsert=create))
        yield Planted()
    finally:
        state.query(f"{match} SKIP 1 DELETE r", **edge)
        constraint = "FOR ()-[engaged:ENGAGED]-() REQUIRE engaged.event_id IS UNIQUE"
        state.query(f"CREATE CONSTRAINT engaged_event_id IF NOT EXISTS {constraint}")


# --- the ledger and the offsets


@_breaks(3)
def a_dropped_duplicate_counts_twice(state: ChaosState) -> Iterator[Planted]:
    ledger = state.steps.stage.ledger
    staged: list[BatchRef] = []

    def record_twice(ref: BatchRef, counts: StageCounts) -> None:
        ledger.record_staged(ref, msgspec.structs.replace(counts, dropped=2 * counts.dropped))
        staged.append(ref)

    state.publish(state.repeated, state.repeated)
    state.ingest(state.with_stage("ledger", record_staged=record_twice))
    yield Planted()
    (ref,) = staged
    where = "topic = %s AND shard = %s AND start_offset = %s"
    state.execute(f"UPDATE pipeline.batches SET dropped = 1 WHERE {where}", ref.topic, ref.shard, ref.start)


@_breaks(5)
def the_group_commits_before_the_ledger(state: ChaosState) -> Iterator[Planted]:
    shard = shard_of(state.repeated["user_id"], SHARDS)
    before = read_progress(state.settings)
    state.publish(state.repeated)
    kafka = state.settings.kafka
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": kafka.group, "enable.auto.commit": False})
    try:
        ahead = before.ranges[shard].high + 1
        consumer.commit(offsets=[TopicPartition(kafka.topic, shard, ahead)], asynchronous=False)
    finally:
        consumer.close()
    seen = read_progress(state.settings)
    state.ingest()
    sample = OffsetSample(0, {shard: Position(seen.group.get(shard), seen.ledger.get(shard))})
    yield Planted(Observations(offsets=[sample], converged=True))


# --- dead letters


@_breaks(4, 5)
def dead_letters_are_not_flushed(state: ChaosState) -> Iterator[Planted]:
    lost: list[Any] = []
    state.publish(b"{")
    state.ingest(state.with_stage("dead_letters", put=lost.extend))
    yield Planted()
    state.steps.stage.dead_letters.put(lost)


@_breaks(4)
def a_valid_event_becomes_a_dead_letter(state: ChaosState) -> Iterator[Planted]:
    yield Planted(letters=state.copy_letters(_letter(state, b'"m1"', b"no_text_and_no_item")))


@_breaks(10)
def an_outage_makes_a_dead_letter_of_a_good_record(state: ChaosState) -> Iterator[Planted]:
    yield Planted(letters=state.copy_letters(_letter(state, b'"m1"', b"refused_by_milvus")))


@_breaks(4)
def a_dead_letter_has_other_bytes_and_another_reason(state: ChaosState) -> Iterator[Planted]:
    key, value, headers = _letter(state, b'"invalid"', b"invalid_json")
    yield Planted(letters=state.copy_letters((key, (value or b"")[:-1], headers)))


@_breaks(1, 5, 8, 10)
def a_batch_is_dropped_because_of_one_poison(state: ChaosState) -> Iterator[Planted]:
    def count_poison(ref: BatchRef, counts: StageCounts) -> None:
        poisoned = msgspec.structs.replace(counts, valid=counts.valid - 1, dead_letters={"refused_by_neo4j": 1})
        state.steps.stage.ledger.record_staged(ref, poisoned)

    observed = Observations(is_poison=lambda _, payload: b'"poison"' in (payload or b""), converged=True)
    state.publish(state.message("user1", "poison"))
    since = _now_ms() + 1
    time.sleep(0.002)
    state.publish(state.message("user1", "neighbour", text="beside it"))
    stage = state.with_stage("ledger", record_staged=count_poison)
    state.ingest(replace(stage, sinks={}))
    letters = state.copy_letters(_letter(state, b'"poison"', b"refused_by_neo4j"))
    yield Planted(observed, letters)
    state.replay(since)
    # With its neighbour in every store, a poison message is no violation at all.
    violations = state.check(observed, letters)
    assert violations.details == []
    poison = "dead_letters ? 'refused_by_neo4j'"
    state.execute(f"UPDATE pipeline.batches SET valid = valid + 1, dead_letters = '{{}}' WHERE {poison}")
    state.replay(since - 1_000)


def _letter(state: ChaosState, part: bytes, reason: bytes) -> tuple[bytes, bytes | None, Mapping[str, bytes]]:
    """The dead letter of the first message that contains ``part``."""
    kafka = state.settings.kafka
    message = next(m for m in read_topic(kafka, kafka.topic) if part in (m.value or b""))
    origin = f"{kafka.topic}-{message.shard}-{message.offset}".encode()
    numbers = {"shard": message.shard, "offset": message.offset, "published_at": message.published_at}
    headers = {name: str(number).encode() for name, number in numbers.items()}
    key = {} if message.key is None else {"key": message.key}
    return origin, message.value, {"reason": reason, "origin": origin, "topic": kafka.topic.encode(), **headers, **key}


# --- derived data


@_breaks(8)
def an_hour_is_cleared_and_not_recounted(state: ChaosState) -> Iterator[Planted]:
    engagement = state.steps.engagement
    state.publish(state.message("user1", "not counted", occurred_at="2024-05-05T05:05:05Z"))
    state.ingest()
    engagement.clear_hours(engagement.read_touched_hours())
    state.derive(lists=False)
    yield Planted()
    engagement.recount(["2024-05-05T05:00:00+00:00"])
    state.derive(lists=False)


@_breaks(8)
def a_profile_is_not_rebuilt(state: ChaosState) -> Iterator[Planted]:
    activity = state.steps.precompute.activity
    state.publish(state.message("user5", "changes the profile", kind="message", item_id=None, text="words words new"))
    state.publish(state.message("user5", "changes it", item_id=None, kind="message", text="never seen before by any"))
    state.ingest()
    marks = activity.read_changed_users()
    activity.clear_changed_users(marks)
    state.derive(lists=False)
    yield Planted()
    state.publish(state.message("user5", "marks the user", item_id="item5"))
    state.ingest()
    state.derive(lists=False)


@_breaks(8)
def the_profile_of_a_user_without_texts_is_left_behind(state: ChaosState) -> Iterator[Planted]:
    only = state.message("one text", "only", text="soon gone")
    state.publish(only)
    state.ingest()
    state.derive(lists=False)
    state.publish({name: value for name, value in {**only, "version": 1}.items() if name != "text"})
    state.ingest()
    state.derive(state.with_precompute("profiles", delete=lambda users: None), lists=False)
    yield Planted()
    state.steps.precompute.profiles.delete([only["user_id"]])


@_breaks(8)
def the_popular_list_decays_too_fast(state: ChaosState) -> Iterator[Planted]:
    engagement = state.steps.precompute.engagement

    def rank_fast(as_of_ms: int, half_life_days: float, limit: int) -> Any:
        return engagement.rank_popular(as_of_ms, half_life_days / 2, limit)

    state.derive(state.with_precompute("engagement", rank_popular=rank_fast))
    yield Planted()
    state.derive()


@_breaks(9)
def an_older_list_overwrites_a_newer_one(state: ChaosState) -> Iterator[Planted]:
    user = f"{state.prefix}user1"
    watch = VersionWatch()
    name = f"recs:{state.settings.embed.generation.name}:{user}"
    with closing(redis.Redis.from_url(state.settings.redis.url)) as client:
        newest: Any = client.get(name)
        older = json.loads(json.dumps(msgspec.msgpack.decode(newest[8:])))
        older[0] -= 1
        watch.see(user, unpack(newest).version)
        client.set(name, older[0].to_bytes(8, "big") + msgspec.msgpack.encode(older), keepttl=True)
        lists = {name: packed for chunk in read_lists(state.settings) for name, packed in chunk.items()}
        watch.see(user, unpack(lists[user]).version)
        yield Planted(Observations(served=watch.served, converged=True))
        client.set(name, newest, keepttl=True)


@_breaks(8)
def a_stranger_gets_a_list(state: ChaosState) -> Iterator[Planted]:
    generation = state.settings.embed.generation.name
    with closing(redis.Redis.from_url(state.settings.redis.url)) as client:
        popular: Any = client.get(f"popular:{generation}")
        client.set(f"recs:{generation}:{state.prefix}stranger", popular, ex=60)
        yield Planted()
        client.delete(f"recs:{generation}:{state.prefix}stranger")


@_breaks(8)
def the_list_of_an_active_user_is_lost(state: ChaosState) -> Iterator[Planted]:
    with closing(redis.Redis.from_url(state.settings.redis.url)) as client:
        client.delete(f"recs:{state.settings.embed.generation.name}:{state.prefix}user1")
    yield Planted()
    state.derive()
