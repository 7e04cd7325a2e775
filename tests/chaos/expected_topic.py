"""Reads whole topics with a plain consumer, for the checker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from include.settings import KafkaSettings

_REQUEST_S = 20
_STALL_S = 60
_CHUNK = 2_000


class TopicMessage(NamedTuple):
    """One message as the broker returns it; ``published_at`` in ms since 1970."""

    shard: int
    offset: int
    published_at: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


class Range(NamedTuple):
    """The offsets ``[low, high)`` of a partition."""

    low: int
    high: int


class Offsets(NamedTuple):
    """Per partition: the offsets that it has, and the committed offset of the group, if it has one."""

    ranges: Mapping[int, Range]
    group: Mapping[int, int]


def read_offsets(settings: KafkaSettings) -> Offsets:
    """The offsets of the topic of events now."""
    with closing(_open(settings, settings.group)) as consumer:
        ranges = _read_ranges(consumer, settings.topic)
        partitions = [TopicPartition(settings.topic, shard) for shard in ranges]
        committed = consumer.committed(partitions, timeout=_REQUEST_S)
    for answer in committed:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return Offsets(ranges, {answer.partition: answer.offset for answer in committed if answer.offset >= 0})


def read_topic(settings: KafkaSettings, topic: str) -> Iterator[TopicMessage]:
    """Every message stored now, partition by partition. Raises ``TimeoutError`` if the broker stops delivering."""
    with closing(_open(settings)) as consumer:
        for partition, (low, high) in _read_ranges(consumer, topic).items():
            yield from _read_partition(consumer, topic, partition, low, high)


def _read_ranges(consumer: Consumer, topic: str) -> dict[int, Range]:
    partitions = consumer.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions
    return {
        partition: Range(*consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_REQUEST_S))
        for partition in sorted(partitions)
    }


def _open(settings: KafkaSettings, group: str = "millrace-checker") -> Consumer:
    """A consumer for ``assign``: it joins no group and commits nothing."""
    return Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            **settings.options,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
    )


def _read_partition(consumer: Consumer, topic: str, partition: int, low: int, high: int) -> Iterator[TopicMessage]:
    consumer.assign([TopicPartition(topic, partition, low)])
    position, deadline = low, time.monotonic() + _STALL_S
    while position < high:
        for message in consumer.consume(min(_CHUNK, high - position), timeout=1):
            error, offset = message.error(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if offset is None or offset < position:
                continue
            position, deadline = offset + (error is None), time.monotonic() + _STALL_S
            if error is None and offset < high:
                headers = cast("dict[str, bytes]", dict(message.headers() or ()))
                published_at = message.timestamp()[1]
                yield TopicMessage(partition, offset, published_at, message.key(), message.value(), headers)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{topic}[{partition}] delivered nothing from offset {position} on, but ends at {high}")
    consumer.unassign()
