"""Kafka as the source of events and as the store of dead letters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import cast

from confluent_kafka import Consumer, Message, TopicPartition

from include.domain.batch import DeadLetter, Record
from include.domain.letters import REDRIVEN_FROM, REDRIVES, Headers, StoredLetter, parse_redrive
from include.domain.offsets import Offsets, TopicDescription
from include.domain.reasons import parse_reason
from include.errors import OffsetsGoneError, TransientError
from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, fetch, log, open_consumer, raise_if_failed, translate_errors
from include.sources.kafka_producer import AckedProducer
from include.sources.kafka_topics import describe_topic


class KafkaSource:
    """The topic of events. Supports one read at a time: a new ``read`` ends the previous one."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topic = settings.topic
        self._consumer = open_consumer(settings)

    def describe(self) -> TopicDescription:
        """The topic's id and number of partitions."""
        return describe_topic(self._settings)

    def read_offsets(self, shard: int) -> Offsets:
        """``[low, high)`` of the shard, as the broker reports it."""
        return _offsets(self._consumer, self._topic, shard)

    def find_offset(self, shard: int, published_at: int) -> int:
        """The first offset published at or after that time (ms since 1970); the high watermark if there is none."""
        query = TopicPartition(self._topic, shard, max(0, published_at))
        with translate_errors():
            (answer,) = self._consumer.offsets_for_times([query], timeout=REQUEST_S)
            raise_if_failed(answer)
        return answer.offset if answer.offset >= 0 else self.read_offsets(shard).high

    def read(self, shard: int, start: int, end: int) -> Iterator[Sequence[Record]]:
        """The records of ``[start, end)`` in order, in chunks. Raises ``OffsetsGoneError`` if any are missing."""
        low, high = self.read_offsets(shard)
        if start < end and not (low <= start and end <= high):
            raise OffsetsGoneError(
                f"{self._topic}[{shard}] has offsets [{low}, {high}), but [{start}, {end}) was requested. Messages "
                "removed by retention are lost to the stores: raise retention.ms, then run "
                f"python -m include.cli skip-lost --shard {shard}"
            )
        return self._records(shard, start, end)

    def read_committed_offset(self, shard: int) -> int | None:
        """The group's offset, None before the first commit."""
        with translate_errors():
            (answer,) = self._consumer.committed([TopicPartition(self._topic, shard)], timeout=REQUEST_S)
            raise_if_failed(answer)
        return answer.offset if answer.offset >= 0 else None

    def commit(self, shard: int, offset: int) -> None:
        """Move the group's offset forward to ``offset``; a smaller offset changes nothing."""
        committed = self.read_committed_offset(shard)
        if committed is not None and committed >= offset:
            return
        with translate_errors():
            (answer,) = self._consumer.commit(offsets=[TopicPartition(self._topic, shard, offset)], asynchronous=False)
            raise_if_failed(answer)

    def close(self) -> None:
        """Close the connections. Do not use the source after closing it."""
        self._consumer.close()

    def _records(self, shard: int, start: int, end: int) -> Iterator[Sequence[Record]]:
        for chunk in fetch(self._consumer, self._topic, shard, start, end):
            yield [_to_record(message, shard) for message in chunk]


class KafkaDeadLetters:
    """The topic of messages that are not valid events: the original bytes, with reason and origin as headers.

    A letter that is put twice is stored twice, under the same key: its origin. ``read`` yields one letter per origin.
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
        """Every letter stored now, one per origin, partition by partition."""
        return (stored.letter for stored in self.scan())

    def scan(self) -> Iterator[StoredLetter]:
        """As ``read``, with the time of each letter. Holds a number for each origin that it has seen."""
        reader = open_consumer(self._settings)
        try:
            seen: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
            for partition in _partitions(reader, self._topic):
                low, high = _offsets(reader, self._topic, partition)
                for chunk in fetch(reader, self._topic, partition, low, high):
                    for stored in filter(None, map(_parse_letter, chunk)):
                        topic, record = stored.letter.topic, stored.letter.record
                        offsets = seen[topic, record.shard]
                        if record.offset not in offsets:
                            offsets.add(record.offset)
                            yield stored
        finally:
            reader.close()

    def close(self) -> None:
        """Close the connections. Do not use the dead letters after closing."""
        self._producer.close()


def _offsets(consumer: Consumer, topic: str, partition: int) -> Offsets:
    with translate_errors():
        watermarks = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REQUEST_S, cached=False)
    if watermarks is None:
        raise TransientError(f"Kafka did not report the offsets of {topic}[{partition}] within {REQUEST_S} s")
    return Offsets(*watermarks)


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    with translate_errors():
        return sorted(consumer.list_topics(topic, timeout=REQUEST_S).topics[topic].partitions)


def _to_record(message: Message, shard: int) -> Record:
    redrive = parse_redrive(cast("Headers | None", message.headers()))
    offset, published_at = cast(int, message.offset()), message.timestamp()[1]
    return Record(shard, offset, published_at, message.key(), message.value(), *redrive)


def _headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    record = letter.record
    texts = {
        "reason": str(letter.reason),
        "origin": letter.origin,
        "topic": letter.topic,
        "shard": str(record.shard),
        "offset": str(record.offset),
        "published_at": str(record.published_at),
    }
    if record.redriven_from is not None:
        texts |= {REDRIVES: str(record.redrives), REDRIVEN_FROM: record.redriven_from}
    headers = [(name, text.encode()) for name, text in texts.items()]
    return headers if record.key is None else [*headers, ("key", record.key)]


def _parse_letter(message: Message) -> StoredLetter | None:
    headers = cast("dict[str, bytes]", dict(message.headers() or ()))
    try:
        shard, offset, published_at = (int(headers[name]) for name in ("shard", "offset", "published_at"))
        redrive = parse_redrive(headers.items())
        record = Record(shard, offset, published_at, headers.get("key"), message.value(), *redrive)
        letter = DeadLetter(headers["topic"].decode(), record, parse_reason(headers["reason"].decode()))
        return StoredLetter(letter, message.timestamp()[1])
    except (KeyError, ValueError):
        log.warning("not a dead letter of Millrace: %s[%s]@%s", message.topic(), message.partition(), message.offset())
        return None
