"""Publishing lines, and resuming after a kill."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.publishing import ForeignMessagesError, publish_lines
from demo.routing import Router
from include.errors import TransientError

SHARDS = 3
LINES = st.lists(st.one_of(st.integers(0, 9).map(lambda n: json.dumps({"user_id": f"u{n}"}).encode()), st.binary()))


@dataclass
class Topic:
    """A topic in memory; ``capacity`` is the number of messages it takes before the publisher is killed."""

    partitions: list[list[tuple[bytes | None, bytes, int | None]]] = field(
        default_factory=lambda: [[] for _ in range(SHARDS)]
    )
    capacity: int = 10**9
    flushed: bool = False

    def send(self, partition: int, key: bytes | None, value: bytes, timestamp_ms: int | None = None) -> None:
        if not self.capacity:
            raise TransientError("killed")
        self.capacity -= 1
        self.flushed = False
        self.partitions[partition].append((key, value, timestamp_ms))

    def flush(self) -> None:
        self.flushed = True

    @property
    def ends(self) -> list[int]:
        return [len(partition) for partition in self.partitions]


@given(LINES)
def test_every_line_once_in_order(lines: list[bytes]) -> None:
    """Every line is published once, unchanged, and in order within its partition."""
    topic = Topic()
    counts = publish_lines(lines, Router(SHARDS), topic, [0] * SHARDS, 17)
    expected: list[list[tuple[bytes | None, bytes, int | None]]] = [[] for _ in range(SHARDS)]
    for number, line in enumerate(lines):
        shard, key = Router(SHARDS).route(line, number)
        expected[shard].append((key, line, 17))
    assert topic.partitions == expected
    assert topic.flushed
    assert counts == topic.ends


@given(LINES, st.lists(st.integers(0, 12), max_size=5))
def test_resuming_after_kills(lines: list[bytes], kills: list[int]) -> None:
    """However often and wherever the publisher is killed, the topic ends up the same as without kills."""
    uninterrupted, topic = Topic(), Topic()
    publish_lines(lines, Router(SHARDS), uninterrupted, [0] * SHARDS)
    for capacity in kills:
        topic.capacity = capacity
        try:
            publish_lines(lines, Router(SHARDS), topic, topic.ends)
        except TransientError:
            continue
    topic.capacity = 10**9
    assert publish_lines(lines, Router(SHARDS), topic, topic.ends) == uninterrupted.ends
    assert topic.partitions == uninterrupted.partitions


def test_existing_messages_are_not_sent_again() -> None:
    """A second run over a complete topic sends nothing and returns the same counts."""
    lines = [b'{"user_id":"a"}'] * 5
    topic = Topic()
    counts = publish_lines(lines, Router(SHARDS), topic, [0] * SHARDS)
    topic.capacity = 0
    assert publish_lines(lines, Router(SHARDS), topic, topic.ends) == counts


def test_foreign_messages_are_an_error() -> None:
    """A partition with more messages than the input has is an error, because the counts could not match."""
    with pytest.raises(ForeignMessagesError, match="partition 1 has 1 messages, but this input has only 0"):
        publish_lines([], Router(SHARDS), Topic(), [0, 1, 0])


def test_progress_ends_with_the_number_of_lines() -> None:
    """The last progress report is the number of lines."""
    reports: list[int] = []
    publish_lines([b"x"] * 7, Router(SHARDS), Topic(), [0] * SHARDS, on_progress=reports.append)
    assert reports[-1] == 7
