"""The DeadLetters port in memory and on Kafka, and reading dead letters back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol

import pytest

from include.domain.batch import DeadLetter, Record
from include.domain.letters import StoredLetter
from include.domain.reasons import Reason
from include.errors import TransientError
from include.settings import KafkaSettings


class Letters(Protocol):
    """The port, and the reader that operators use."""

    def put(self, letters: Sequence[DeadLetter]) -> None: ...
    def read(self) -> Iterator[DeadLetter]: ...
    def scan(self) -> Iterator[StoredLetter]: ...


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers("kafka"))])
def letters(request: pytest.FixtureRequest) -> Iterator[Letters]:
    """A port without any dead letters."""
    if request.param == "memory":
        from include.sources.memory import MemoryDeadLetters

        yield MemoryDeadLetters()
    else:
        from include.sources.kafka import KafkaDeadLetters
        from include.sources.kafka_topics import ensure_topics

        settings: KafkaSettings = request.getfixturevalue("kafka_settings")
        ensure_topics(settings, 2)
        with closing(KafkaDeadLetters(settings)) as kafka_letters:
            yield kafka_letters


def _letter(offset: int, value: bytes | None, key: bytes | None = b"u", shard: int = 0) -> DeadLetter:
    return DeadLetter("events", Record(shard, offset, 1_700_000_000_000, key, value), Reason.INVALID_JSON)


def _read(letters: Letters) -> list[DeadLetter]:
    return sorted(letters.read(), key=lambda letter: (letter.record.shard, letter.record.offset))


def test_letters_preserve_the_original_bytes(letters: Letters) -> None:
    """Reason, origin, time, key and value are read unchanged; null stays null; an empty call writes nothing."""
    letters.put([])
    assert _read(letters) == []
    written = [
        _letter(0, b"{"),
        _letter(1, None),
        _letter(2, b""),
        _letter(3, b"\xff\x00", key=None),
        _letter(4, b"", b""),
    ]
    letters.put(written)
    assert _read(letters) == written


def test_a_letter_put_twice_is_read_once(letters: Letters) -> None:
    """A retried task writes its letters again; their origin identifies them as duplicates."""
    written = [_letter(n, b"x", shard=n % 3) for n in range(20)]
    letters.put(written)
    letters.put(written)
    assert sorted(letter.origin for letter in letters.read()) == sorted(letter.origin for letter in written)


def test_letters_have_a_time_and_what_the_headers_of_their_message_said(letters: Letters) -> None:
    """A letter tells when it was put, how often its message was redriven, and from which letter."""
    before = int(time.time() * 1000)
    letter = DeadLetter("events", Record(0, 9, 1, b"u", b"x", 2, "events-0-4"), "refused_by_milvus")
    letters.put([letter])
    [stored] = letters.scan()
    assert stored.letter == letter
    assert before <= stored.put_at <= round(time.time() * 1000)


def test_letters_with_the_same_offset_in_two_shards_are_distinct(letters: Letters) -> None:
    """The origin consists of topic, partition and offset."""
    letters.put([_letter(7, b"a", shard=0), _letter(7, b"b", shard=1)])
    assert [letter.record.value for letter in _read(letters)] == [b"a", b"b"]


def test_the_longest_message_fits_in_a_letter(letters: Letters) -> None:
    """A letter is longer than its message, so its topic must accept more than the broker's default limit."""
    longest = _letter(0, os.urandom(1_048_000))
    letters.put([longest])
    assert _read(letters) == [longest]


def test_an_unavailable_kafka_is_transient() -> None:
    """An outage never loses a letter: the batch fails within a bounded time."""
    from include.sources.kafka import KafkaDeadLetters

    settings = KafkaSettings("127.0.0.1:1", options={"delivery.timeout.ms": "3000"})
    with closing(KafkaDeadLetters(settings)) as letters:
        started = time.monotonic()
        with pytest.raises(TransientError, match="1 of 1"):
            letters.put([_letter(0, b"x")])
        assert time.monotonic() - started < 10
