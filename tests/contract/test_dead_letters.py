"""The DeadLetters port, in memory and on Kafka, and reading them back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol

import pytest

from include.domain.batch import DeadLetter, Record
from include.domain.reasons import Reason
from include.errors import TransientError
from include.settings import KafkaSettings


class Letters(Protocol):
    """The port, and what a person reads afterwards."""

    def put(self, letters: Sequence[DeadLetter]) -> None: ...
    def read(self) -> Iterator[DeadLetter]: ...


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers("kafka"))])
def letters(request: pytest.FixtureRequest) -> Iterator[Letters]:
    """No dead letters yet."""
    if request.param == "memory":
        from include.sources.memory import MemoryDeadLetters

        yield MemoryDeadLetters()
    else:
        from include.sources.kafka import KafkaDeadLetters
        from include.sources.kafka_topics import ensure_topics

        settings: KafkaSettings = request.getfixturevalue("kafka_settings")
        ensure_topics(settings, 2)
        with closing(KafkaDeadLetters(settings)) as real:
            yield real


def _letter(offset: int, value: bytes | None, key: bytes | None = b"u", shard: int = 0) -> DeadLetter:
    return DeadLetter("events", Record(shard, offset, 1_700_000_000_000, key, value), Reason.INVALID_JSON)


def _read(letters: Letters) -> list[DeadLetter]:
    return sorted(letters.read(), key=lambda letter: (letter.record.shard, letter.record.offset))


def test_letters_keep_the_original_bytes(letters: Letters) -> None:
    """Reason, place, time, key and value come back as they were; null stays null, and nothing is nothing."""
    letters.put([])
    assert _read(letters) == []
    put = [_letter(0, b"{"), _letter(1, None), _letter(2, b""), _letter(3, b"\xff\x00", key=None), _letter(4, b"", b"")]
    letters.put(put)
    assert _read(letters) == put


def test_a_letter_put_twice_is_read_once(letters: Letters) -> None:
    """A task that runs again writes its letters again; the origin tells that they are the same."""
    put = [_letter(n, b"x", shard=n % 3) for n in range(20)]
    letters.put(put)
    letters.put(put)
    assert sorted(letter.origin for letter in letters.read()) == sorted(letter.origin for letter in put)


def test_letters_of_one_offset_in_two_shards_are_two(letters: Letters) -> None:
    """The origin is topic, partition and offset."""
    letters.put([_letter(7, b"a", shard=0), _letter(7, b"b", shard=1)])
    assert [letter.record.value for letter in _read(letters)] == [b"a", b"b"]


def test_the_longest_message_fits_into_a_letter(letters: Letters) -> None:
    """The broker takes messages up to its limit; the letter about one is longer than it, and must be taken too."""
    longest = _letter(0, os.urandom(1_048_000))
    letters.put([longest])
    assert _read(letters) == [longest]


def test_kafka_away_is_transient() -> None:
    """An outage is never a lost letter: the batch stops, within a bounded time."""
    from include.sources.kafka import KafkaDeadLetters

    settings = KafkaSettings("127.0.0.1:1", options={"delivery.timeout.ms": "3000"})
    with closing(KafkaDeadLetters(settings)) as letters:
        began = time.monotonic()
        with pytest.raises(TransientError, match="1 of 1"):
            letters.put([_letter(0, b"x")])
        assert time.monotonic() - began < 10
