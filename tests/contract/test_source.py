"""The Source port, in memory and on Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Protocol

import pytest

from include.domain.batch import Record
from include.errors import OffsetsGoneError, TransientError
from include.ports import Source
from include.settings import KafkaSettings

SHARDS = 3
NOW = int(time.time() * 1000) - 60_000


class Topic(Protocol):
    """A topic as producers and retention see it."""

    @property
    def source(self) -> Source: ...
    def append(self, shard: int, *records: tuple[bytes | None, bytes | None, int]) -> None:
        """Publish (key, value, time)."""

    def trim(self, shard: int, low: int) -> None: ...


class MemoryTopic:
    def __init__(self) -> None:
        from include.sources.memory import MemorySource

        self.source = MemorySource()

    def append(self, shard: int, *records: tuple[bytes | None, bytes | None, int]) -> None:
        for record in records:
            self.source.append(shard, *record)

    def trim(self, shard: int, low: int) -> None:
        self.source.trim(shard, low)


class KafkaTopic:
    def __init__(self, settings: KafkaSettings) -> None:
        from include.sources.kafka import KafkaSource
        from include.sources.kafka_producer import Publisher
        from include.sources.kafka_topics import ensure_topics

        ensure_topics(settings, SHARDS)
        self._settings = settings
        self._publisher = Publisher(settings)
        self.source = KafkaSource(settings)

    def append(self, shard: int, *records: tuple[bytes | None, bytes | None, int]) -> None:
        for record in records:
            self._publisher.send(shard, *record)
        self._publisher.flush()

    def trim(self, shard: int, low: int) -> None:
        from confluent_kafka import TopicPartition
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self._settings.bootstrap})
        for future in admin.delete_records([TopicPartition(self._settings.topic, shard, low)]).values():
            future.result(timeout=10)

    def close(self) -> None:
        self._publisher.close()
        self.source.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers("kafka"))])
def topic(request: pytest.FixtureRequest) -> Iterator[Topic]:
    """An empty topic."""
    if request.param == "memory":
        yield MemoryTopic()
    else:
        settings: KafkaSettings = request.getfixturevalue("kafka_settings")
        with closing(KafkaTopic(settings)) as kafka_topic:
            yield kafka_topic


def _numbered(count: int) -> list[tuple[bytes | None, bytes | None, int]]:
    return [(b"u", b"%d" % n, NOW + n) for n in range(count)]


def _read(topic: Topic, shard: int, start: int, end: int) -> list[Record]:
    return [record for chunk in topic.source.read(shard, start, end) for record in chunk]


def test_an_empty_shard_has_no_records(topic: Topic) -> None:
    """Offsets begin at 0, and an empty range has no records."""
    assert topic.source.read_offsets(1) == (0, 0)
    assert _read(topic, 1, 0, 0) == []
    assert topic.source.read_committed_offset(1) is None


def test_a_message_without_a_timestamp_has_a_negative_time(topic: Topic) -> None:
    """Kafka stores -1, which is read as it is and found before every other time."""
    topic.append(0, (b"u", b"{}", -1), (b"u", b"{}", NOW))
    assert [record.published_at for record in _read(topic, 0, 0, 2)] == [-1, NOW]
    assert topic.source.find_offset(0, NOW) == 1


def test_records_are_read_as_they_were_published(topic: Topic) -> None:
    """Key, value and time are unchanged, null is null, and each shard has its own records in order."""
    topic.append(0, (b"u", b"{}", NOW), (None, None, NOW + 5), (b"", b"", NOW + 3), (b"\xff\x00", b"\x00\xfe", NOW))
    topic.append(1, (b"v", b"other", NOW))
    assert topic.source.read_offsets(0) == (0, 4)
    assert _read(topic, 0, 0, 4) == [
        Record(0, 0, NOW, b"u", b"{}"),
        Record(0, 1, NOW + 5, None, None),
        Record(0, 2, NOW + 3, b"", b""),
        Record(0, 3, NOW, b"\xff\x00", b"\x00\xfe"),
    ]
    assert _read(topic, 1, 0, 1) == [Record(1, 0, NOW, b"v", b"other")]


def test_any_range_can_be_read_repeatedly(topic: Topic) -> None:
    """A retry reads the same records, and only those in its range."""
    topic.append(0, *_numbered(3_000))
    for start, end in [(0, 3_000), (17, 18), (2_999, 3_000), (100, 2_100), (0, 3_000), (5, 5)]:
        assert [record.offset for record in _read(topic, 0, start, end)] == list(range(start, end))


def test_a_read_may_be_abandoned(topic: Topic) -> None:
    """What an unfinished read has left in its buffers does not appear in the next one."""
    topic.append(0, *_numbered(3_000))
    topic.append(1, (b"v", b"other", NOW))
    next(iter(topic.source.read(0, 0, 3_000)))
    assert [record.value for record in _read(topic, 1, 0, 1)] == [b"other"]
    assert [record.offset for record in _read(topic, 0, 1_000, 1_003)] == [1_000, 1_001, 1_002]


def test_long_ranges_are_read_in_chunks(topic: Topic) -> None:
    """A range larger than the buffers, here 40 MB, is read completely."""
    topic.append(0, *[(b"u", b"x" * 400_000, NOW)] * 100)
    sizes = [sum(len(record.value or b"") for record in chunk) for chunk in topic.source.read(0, 0, 100)]
    assert sum(sizes) == 40_000_000


def test_offsets_outside_the_topic_are_an_error(topic: Topic) -> None:
    """Skipping deleted or future offsets would lose events; the error names the offsets that the topic has."""
    topic.append(0, *_numbered(10))
    topic.trim(0, 4)
    assert topic.source.read_offsets(0) == (4, 10)
    assert [record.offset for record in _read(topic, 0, 4, 10)] == [4, 5, 6, 7, 8, 9]
    for start, end in [(3, 6), (9, 11), (20, 21)]:
        with pytest.raises(OffsetsGoneError, match=r"\[4, 10\)"):
            topic.source.read(0, start, end)


def test_offsets_can_be_looked_up_by_publish_time(topic: Topic) -> None:
    """The result is the first offset at or after a time, or the end of the shard."""
    topic.append(0, *[(b"u", b"", NOW + 10 * n) for n in range(5)])
    times = {0: 0, NOW: 0, NOW + 1: 1, NOW + 40: 4, NOW + 41: 5}
    assert {at: topic.source.find_offset(0, at) for at in times} == times
    assert topic.source.find_offset(1, NOW) == 0


def test_commits_only_move_forward(topic: Topic) -> None:
    """An overtaken run or a repeated commit changes nothing; each shard has its own offset."""
    topic.append(0, *_numbered(10))
    for offset, expected in [(5, 5), (5, 5), (3, 5), (10, 10)]:
        topic.source.commit(0, offset)
        assert topic.source.read_committed_offset(0) == expected
    assert topic.source.read_committed_offset(1) is None


def test_an_unavailable_kafka_is_transient() -> None:
    """The error comes within a bounded time, and the task is retried."""
    from include.sources.kafka import KafkaSource

    with closing(KafkaSource(KafkaSettings("127.0.0.1:1"))) as source:
        started = time.monotonic()
        with pytest.raises(TransientError):
            source.read_offsets(0)
        assert time.monotonic() - started < 30
