"""The lag trigger: it fires by size or age, fires again after progress, and never strands a shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.offsets import Offsets
from include.domain.offsets import PartitionLag as Lag
from shard_lag import LagReader, LagWatch, PartitionCheck, ShardLagTrigger


def new_watch() -> LagWatch:
    return LagWatch(min_lag=100, max_age=2.0, cooldown=30.0)


def test_a_shard_without_lag_never_fires() -> None:
    """A shard whose messages are all committed never fires, however much time passes."""
    watch = new_watch()
    assert not any(watch.should_fire(Lag(5, 0, 5), now) for now in (0, 10, 100))


def test_a_large_lag_fires_at_once() -> None:
    """A lag of min_lag messages fires without waiting."""
    assert new_watch().should_fire(Lag(0, 0, 100), 0)


def test_a_small_lag_fires_after_max_age() -> None:
    """A few messages wait for max_age seconds, so that a backlog that is still being written leads to few runs."""
    watch = new_watch()
    assert [watch.should_fire(Lag(0, 0, 1 + now), now) for now in range(3)] == [False, False, True]


def test_without_a_committed_offset_every_message_counts() -> None:
    """Before the group's first commit, the lag counts from the low watermark."""
    watch = new_watch()
    assert watch.should_fire(Lag(None, 50, 150), 0)
    assert not new_watch().should_fire(Lag(None, 50, 50), 9)


def test_it_does_not_fire_again_during_a_run() -> None:
    """After firing, it does not fire again until the offset moves or the cooldown ends."""
    watch = new_watch()
    assert watch.should_fire(Lag(0, 0, 100), 0)
    assert not any(watch.should_fire(Lag(0, 0, 100 + now), now) for now in range(1, 30))


def test_progress_with_messages_left_fires_again() -> None:
    """When a run has moved the offset and a full batch is left, the trigger fires again at once."""
    watch = new_watch()
    assert watch.should_fire(Lag(0, 0, 300), 0)
    assert watch.should_fire(Lag(100, 0, 300), 1)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=50))
def test_a_lagging_shard_is_never_stranded(history: list[tuple[int, int]]) -> None:
    """Whatever happened before, unread messages fire within max_age plus cooldown."""
    watch, now = new_watch(), 0.0
    for committed, waiting in history:
        watch.should_fire(Lag(committed, 0, committed + waiting), now)
        now += 1
    assert any(watch.should_fire(Lag(7, 0, 8), now + seconds) for seconds in range(33))


def test_the_shared_stream_is_filtered_by_shard() -> None:
    """Each trigger sees only its own shard in the shared snapshots, and its event carries the offsets."""
    trigger = ShardLagTrigger(shard=1, kafka_conn_id="k", warehouse_conn_id="w", topic="t", shards=2, min_lag=1)

    async def stream() -> AsyncIterator[dict[int, Lag]]:
        yield {0: Lag(0, 0, 9), 1: Lag(3, 0, 3)}
        yield {0: Lag(0, 0, 9), 1: Lag(3, 0, 5)}

    async def collect_events() -> list[object]:
        return [event.payload async for event in trigger.filter_shared_stream(stream())]

    assert asyncio.run(collect_events()) == [{"shard": 1, "committed": 3, "end": 5, "lag": 2}]


def test_it_survives_serialisation() -> None:
    """Airflow stores a trigger as a class path and arguments, which create an equal trigger."""
    trigger = ShardLagTrigger(
        shard=1, kafka_conn_id="k", warehouse_conn_id="w", topic="t", shards=2, min_lag=1, max_age=3.0
    )
    path, arguments = trigger.serialize()
    assert path == "shard_lag.ShardLagTrigger"
    assert ShardLagTrigger(**arguments).serialize() == trigger.serialize()


def test_triggers_of_one_topic_share_a_poll() -> None:
    """Triggers of different shards of one topic share one stream of snapshots."""
    first, second = (
        ShardLagTrigger(shard=n, kafka_conn_id="k", warehouse_conn_id="w", topic="t", shards=2, min_lag=1)
        for n in (0, 1)
    )
    assert first.shared_stream_key() == second.shared_stream_key()


class Positions:
    """A ledger that answers with the given positions."""

    def __init__(self, positions: dict[int, int]) -> None:
        self.positions = positions

    def read(self, topic: str) -> dict[int, int]:
        return self.positions


class Partitions:
    """A topic with the given offsets."""

    def __init__(self, offsets: dict[int, Offsets]) -> None:
        self.offsets = offsets

    async def snapshot(self, topic: str) -> dict[int, Offsets]:
        return self.offsets


def test_the_level_comes_from_the_ledger() -> None:
    """Whatever Kafka knows of the group, the lag is what the ledger has not committed: all of it in a new ledger."""
    offsets, positions = {0: Offsets(0, 9), 1: Offsets(2, 5)}, {0: 4}
    reader = LagReader(cast(Any, Partitions(offsets)), cast(Any, Positions(positions)))
    assert asyncio.run(reader.snapshot("events")) == {0: Lag(4, 0, 9), 1: Lag(None, 2, 5)}


def test_added_partitions_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The error names the setting, and is repeated once a minute as long as the numbers differ."""
    check = PartitionCheck("events", 4)
    for now in (0, 1, 2, 59, 61):
        check.report(4 if now == 0 else 6, now)
    messages = [record.getMessage() for record in caplog.records]
    assert (
        messages == ["the topic events has 6 partitions, but MILLRACE_SHARDS is 4: set it to 6 and restart Airflow"] * 2
    )
