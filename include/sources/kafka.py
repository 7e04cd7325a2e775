"""Kafka as the source of events, and as the place of dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from confluent_kafka import Consumer, Message, TopicPartition

from include.domain.batch import DeadLetter, Record
from include.domain.reasons import Reason
from include.errors import OffsetsGoneError, TransientError
from include.ports import Offsets
from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, consumer, fetch, log, raise_if_failed, translated
from include.sources.kafka_producer import AckedProducer


class KafkaSource:
    """The topic of events. One reading at a time: a new ``read`` ends the one before it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.topic
        self._consumer = consumer(settings)

    def offsets(self, shard: int) -> Offsets:
        """``[low, high)`` of the shard, asked from the broker."""
        return _offsets(self._consumer, self._topic, shard)

    def offset_at(self, shard: int, published_at: int) -> int:
        """The first offset published at or after that time (ms since 1970); the high watermark if there is none."""
        wanted = TopicPartition(self._topic, shard, max(0, published_at))
        with translated():
            (found,) = self._consumer.offsets_for_times([wanted], timeout=REQUEST_S)
            raise_if_failed(found)
        return found.offset if found.offset >= 0 else self.offsets(shard).high

    def read(self, shard: int, start: int, end: int) -> Iterator[Sequence[Record]]:
        """The records of ``[start, end)`` in order, in chunks. Raises ``OffsetsGoneError`` if some are not there."""
        low, high = self.offsets(shard)
        if start < end and not (low <= start and end <= high):
            raise OffsetsGoneError(
                f"{self._topic}[{shard}] holds the offsets [{low}, {high}), but [{start}, {end}) is wanted. What "
                "retention took is lost to the stores: raise retention.ms or ingest sooner. If the topic was made "
                "anew, the ledger still counts in the old one. docs/runbook.md says how to go on from here"
            )
        return self._records(shard, start, end)

    def committed(self, shard: int) -> int | None:
        """The group's offset, None before the first commit."""
        with translated():
            (found,) = self._consumer.committed([TopicPartition(self._topic, shard)], timeout=REQUEST_S)
            raise_if_failed(found)
        return found.offset if found.offset >= 0 else None

    def commit(self, shard: int, offset: int) -> None:
        """Move the group's offset forward to ``offset``; an offset behind it changes nothing."""
        committed = self.committed(shard)
        if committed is not None and committed >= offset:
            return
        with translated():
            (done,) = self._consumer.commit(offsets=[TopicPartition(self._topic, shard, offset)], asynchronous=False)
            raise_if_failed(done)

    def close(self) -> None:
        """Close the connections. The source is of no use afterwards."""
        self._consumer.close()

    def _records(self, shard: int, start: int, end: int) -> Iterator[Sequence[Record]]:
        for chunk in fetch(self._consumer, self._topic, shard, start, end):
            yield [_record(message, shard) for message in chunk]


class KafkaDeadLetters:
    """A topic of what is no event: the original bytes, with the reason and the origin as headers.

    A letter put twice is there twice, under one key: the origin. ``read`` gives each origin once.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topic = settings.dead_letter_topic
        self._producer = AckedProducer(settings)

    def put(self, letters: Sequence[DeadLetter]) -> None:
        """Return only when every letter is acknowledged by every replica in sync."""
        for letter in letters:
            key, headers = letter.origin.encode(), _headers(letter)
            self._producer.send(self._topic, key=key, value=letter.record.value, headers=headers)
        self._producer.flush()

    def read(self) -> Iterator[DeadLetter]:
        """Every letter that is there now, each origin once, in no particular order of partitions."""
        reading = consumer(self._settings)
        try:
            seen: set[str] = set()
            for partition in _partitions(reading, self._topic):
                low, high = _offsets(reading, self._topic, partition)
                for chunk in fetch(reading, self._topic, partition, low, high):
                    for letter in filter(None, map(_letter, chunk)):
                        if letter.origin not in seen:
                            seen.add(letter.origin)
                            yield letter
        finally:
            reading.close()

    def close(self) -> None:
        """Close the connections. The dead letters are of no use afterwards."""
        self._producer.close()


def _offsets(consumer: Consumer, topic: str, partition: int) -> Offsets:
    with translated():
        found = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REQUEST_S, cached=False)
    if found is None:
        raise TransientError(f"Kafka: no answer on the offsets of {topic}[{partition}] within {REQUEST_S} s")
    return Offsets(*found)


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    with translated():
        return sorted(consumer.list_topics(topic, timeout=REQUEST_S).topics[topic].partitions)


def _record(message: Message, shard: int) -> Record:
    return Record(shard, cast(int, message.offset()), message.timestamp()[1], message.key(), message.value())


def _headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    record = letter.record
    texts = {
        "reason": letter.reason.value,
        "origin": letter.origin,
        "topic": letter.topic,
        "shard": str(record.shard),
        "offset": str(record.offset),
        "published_at": str(record.published_at),
    }
    headers = [(name, text.encode()) for name, text in texts.items()]
    return headers if record.key is None else [*headers, ("key", record.key)]


def _letter(message: Message) -> DeadLetter | None:
    headers = cast("dict[str, bytes]", dict(message.headers() or ()))
    try:
        shard, offset, published_at = (int(headers[name]) for name in ("shard", "offset", "published_at"))
        record = Record(shard, offset, published_at, headers.get("key"), message.value())
        return DeadLetter(headers["topic"].decode(), record, Reason(headers["reason"].decode()))
    except (KeyError, ValueError):
        log.warning("no dead letter of ours: %s[%s]@%s", message.topic(), message.partition(), message.offset())
        return None
