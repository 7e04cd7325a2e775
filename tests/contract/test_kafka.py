"""Behaviour that only a real Kafka can show: topics, transactions, acknowledgements, lag."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from include.domain.offsets import Offsets
from include.errors import ConfigurationError, OffsetsGoneError, PermanentError
from include.settings import KafkaSettings
from include.sources.kafka import KafkaSource
from include.sources.kafka_offsets import OffsetReader
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics

pytestmark = pytest.mark.servers("kafka")

SHARDS = 3


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    """Settings whose topics exist."""
    ensure_topics(kafka_settings, SHARDS)
    return kafka_settings


@pytest.fixture
def source(settings: KafkaSettings) -> Iterator[KafkaSource]:
    """A source on the topic."""
    with closing(KafkaSource(settings)) as source:
        yield source


def _publish(settings: KafkaSettings, shard: int, count: int) -> None:
    with closing(Publisher(settings)) as publisher:
        for number in range(count):
            publisher.send(shard, b"u", b"%d" % number)
        publisher.flush()


def _read(source: KafkaSource, start: int, end: int) -> list[tuple[int, bytes | None]]:
    return [(record.offset, record.value) for chunk in source.read(0, start, end) for record in chunk]


def _transaction(settings: KafkaSettings, *values: bytes, commits: bool) -> None:
    producer = Producer({"bootstrap.servers": settings.bootstrap, "transactional.id": settings.topic})
    producer.init_transactions(10)
    producer.begin_transaction()
    for value in values:
        producer.produce(settings.topic, value, partition=0)
    producer.flush(10)
    if commits:
        producer.commit_transaction(10)
    else:
        producer.abort_transaction(10)
    producer.close()


def _wait_for_markers(source: KafkaSource, end: int) -> None:
    """Wait until the partition ends at ``end``: a producer's commit may return before its marker is written."""
    deadline = time.monotonic() + 30
    while source.read_offsets(0).high < end and time.monotonic() < deadline:
        time.sleep(0.05)


def test_topics_are_created_once_and_then_checked(settings: KafkaSettings, source: KafkaSource) -> None:
    """Creating them again does nothing; a different number of partitions would move users, so it is refused."""
    ensure_topics(settings, SHARDS)
    assert [source.read_offsets(shard) for shard in range(SHARDS)] == [(0, 0)] * SHARDS
    with pytest.raises(ConfigurationError, match=f"{SHARDS} partitions, but shards is 5"):
        ensure_topics(settings, 5)


def test_a_range_may_end_in_offsets_without_a_message(settings: KafkaSettings, source: KafkaSource) -> None:
    """Transaction markers and aborted messages have offsets but are never returned; reading still ends."""
    _transaction(settings, b"a", b"b", commits=True)  # 0, 1, and the marker at 2
    _transaction(settings, b"aborted", commits=False)  # 3, and the marker at 4
    _wait_for_markers(source, 5)
    assert source.read_offsets(0) == (0, 5)
    assert _read(source, 0, 5) == [(0, b"a"), (1, b"b")]
    assert _read(source, 0, 3) == [(0, b"a"), (1, b"b")]
    assert _read(source, 2, 3) == []
    assert _read(source, 3, 5) == []
    _publish(settings, 0, 1)
    assert _read(source, 1, 4) == [(1, b"b")]
    assert _read(source, 2, 6) == [(5, b"0")]


def test_offsets_deleted_while_reading_are_an_error(settings: KafkaSettings, source: KafkaSource) -> None:
    """If retention deletes messages after the range was checked, the range must not look empty."""
    from confluent_kafka.admin import AdminClient

    _publish(settings, 0, 10)
    chunks = source.read(0, 0, 10)
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    for future in admin.delete_records([TopicPartition(settings.topic, 0, 8)]).values():
        future.result(timeout=10)
    with pytest.raises(OffsetsGoneError):
        list(chunks)


def test_flush_waits_for_every_message(settings: KafkaSettings, source: KafkaSource) -> None:
    """More messages than fit in the queue are all acknowledged, each in its own partition."""
    small = replace(settings, options={"queue.buffering.max.messages": "100"})
    with closing(Publisher(small)) as publisher:
        for number in range(3_000):
            publisher.send(number % SHARDS, None, b"%d" % number)
        publisher.flush()
    assert [source.read_offsets(shard).high for shard in range(SHARDS)] == [1_000] * SHARDS
    assert [value for _, value in _read(source, 0, 1_000)] == [b"%d" % number for number in range(0, 3_000, SHARDS)]


def test_a_missing_partition_is_permanent(settings: KafkaSettings) -> None:
    """No retry will create it."""
    with pytest.raises(PermanentError):
        _publish(settings, 99, 1)


def test_a_message_refused_by_the_broker_is_permanent(settings: KafkaSettings) -> None:
    """An oversized message fails on every retry; later messages are not affected by it."""
    with closing(Publisher(settings)) as publisher:
        publisher.send(0, b"u", os.urandom(2_000_000))
        with pytest.raises(PermanentError, match="1 of 1"):
            publisher.flush()
        publisher.send(0, b"u", b"short")
        publisher.flush()


def test_a_snapshot_has_the_offsets_of_all_partitions(settings: KafkaSettings) -> None:
    """It has every partition that the topic has, with or without messages."""
    _publish(settings, 0, 7)
    _publish(settings, 2, 2)
    snapshot = asyncio.run(OffsetReader(settings).snapshot(settings.topic))
    assert snapshot == {0: Offsets(0, 7), 1: Offsets(0, 0), 2: Offsets(0, 2)}


def test_a_recreated_topic_has_another_id(settings: KafkaSettings, source: KafkaSource) -> None:
    """The id tells a topic from its successor of the same name; the number of partitions comes with it."""
    first = source.describe()
    assert (first, first.partitions) == (source.describe(), SHARDS)
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    admin.delete_topics([settings.topic])[settings.topic].result()
    second, deadline = first, time.monotonic() + 30
    while second == first and time.monotonic() < deadline:  # the broker deletes and creates topics in the background
        with suppress(PermanentError):
            ensure_topics(settings, SHARDS)
            second = source.describe()
    assert (second.topic_id != first.topic_id, second.partitions) == (True, SHARDS)


def test_two_sources_commit_without_fencing_each_other(settings: KafkaSettings, source: KafkaSource) -> None:
    """No source joins the group, so nothing is rebalanced, and the highest offset remains."""
    with closing(KafkaSource(settings)) as other:
        _publish(settings, 0, 10)
        assert len(_read(other, 0, 10)) == len(_read(source, 0, 10)) == 10
        other.commit(0, 10)
        source.commit(0, 6)
        assert source.read_committed_offset(0) == other.read_committed_offset(0) == 10
