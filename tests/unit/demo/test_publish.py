"""Publishing, and going on after a kill."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.publish import ForeignMessagesError, publish
from demo.routing import Router
from include.errors import TransientError

SHARDS = 3
LINES = st.lists(st.one_of(st.integers(0, 9).map(lambda n: json.dumps({"user_id": f"u{n}"}).encode()), st.binary()))


@dataclass
class Topic:
    """A topic in memory; ``room`` is how many more messages it takes before its publisher is killed."""

    partitions: list[list[tuple[bytes | None, bytes, int | None]]] = field(
        default_factory=lambda: [[] for _ in range(SHARDS)]
    )
    room: int = 10**9
    flushed: bool = False

    def send(self, partition: int, key: bytes | None, value: bytes, timestamp_ms: int | None = None) -> None:
        if not self.room:
            raise TransientError("killed")
        self.room -= 1
        self.flushed = False
        self.partitions[partition].append((key, value, timestamp_ms))

    def flush(self) -> None:
        self.flushed = True

    @property
    def ends(self) -> list[int]:
        return [len(partition) for partition in self.partitions]


@given(LINES)
def test_every_line_once_in_order(lines: list[bytes]) -> None:
    """Nothing is lost or changed, and a partition keeps the order of the lines."""
    topic = Topic()
    counts = publish(lines, Router(SHARDS), topic, [0] * SHARDS, 17)
    routed: list[list[tuple[bytes | None, bytes, int | None]]] = [[] for _ in range(SHARDS)]
    for number, line in enumerate(lines):
        shard, key = Router(SHARDS).route(line, number)
        routed[shard].append((key, line, 17))
    assert topic.partitions == routed
    assert topic.flushed
    assert counts == topic.ends


@given(LINES, st.lists(st.integers(0, 12), max_size=5))
def test_going_on_after_any_kills(lines: list[bytes], kills: list[int]) -> None:
    """However often the publisher is killed and wherever, in the end the topic is as if it never had been."""
    whole, topic = Topic(), Topic()
    publish(lines, Router(SHARDS), whole, [0] * SHARDS)
    for room in kills:
        topic.room = room
        try:
            publish(lines, Router(SHARDS), topic, topic.ends)
        except TransientError:
            continue
    topic.room = 10**9
    assert publish(lines, Router(SHARDS), topic, topic.ends) == whole.ends
    assert topic.partitions == whole.partitions


def test_what_is_there_is_not_sent_again() -> None:
    """A second run over a whole topic sends nothing, and still tells how much there is."""
    lines = [b'{"user_id":"a"}'] * 5
    topic = Topic()
    counts = publish(lines, Router(SHARDS), topic, [0] * SHARDS)
    topic.room = 0
    assert publish(lines, Router(SHARDS), topic, topic.ends) == counts


def test_foreign_messages_are_refused() -> None:
    """More messages than the input has are somebody else's, and the figures could not be right."""
    with pytest.raises(ForeignMessagesError, match="partition 1 holds 1 messages and this input has 0"):
        publish([], Router(SHARDS), Topic(), [0, 1, 0])


def test_progress_ends_with_the_number_of_lines() -> None:
    """Whoever watches sees the last line done."""
    seen: list[int] = []
    publish([b"x"] * 7, Router(SHARDS), Topic(), [0] * SHARDS, note=seen.append)
    assert seen[-1] == 7
