"""The lag trigger: it fires by size or age, again after progress, and never strands a shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from include.domain.offsets import PartitionLag as Lag
from shard_lag import LagWatch, ShardLagTrigger


def watch() -> LagWatch:
    return LagWatch(min_lag=100, max_age=2.0, cooldown=30.0)


def test_nothing_to_read_never_fires() -> None:
    """A shard at its end is left alone."""
    watching = watch()
    assert not any(watching.should_fire(Lag(5, 0, 5), now) for now in (0, 10, 100))


def test_a_large_lag_fires_at_once() -> None:
    """min_lag messages need not wait."""
    assert watch().should_fire(Lag(0, 0, 100), 0)


def test_a_small_lag_waits_for_its_age() -> None:
    """A few messages wait max_age seconds, so that a backlog still being written becomes few runs."""
    watching = watch()
    assert [watching.should_fire(Lag(0, 0, 1 + now), now) for now in range(3)] == [False, False, True]


def test_a_group_without_offset_counts_from_the_low_end() -> None:
    """Before the first commit everything that is there lags."""
    watching = watch()
    assert watching.should_fire(Lag(None, 50, 150), 0)
    assert not watch().should_fire(Lag(None, 50, 50), 9)


def test_no_second_fire_while_the_run_works() -> None:
    """Until the offset moves or the cooldown ends, a fired shard is not fired again."""
    watching = watch()
    assert watching.should_fire(Lag(0, 0, 100), 0)
    assert not any(watching.should_fire(Lag(0, 0, 100 + now), now) for now in range(1, 30))


def test_progress_with_messages_left_fires_again() -> None:
    """A run that left a full batch behind is followed by the next at once."""
    watching = watch()
    assert watching.should_fire(Lag(0, 0, 300), 0)
    assert watching.should_fire(Lag(100, 0, 300), 1)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=50))
def test_a_lagging_shard_is_never_stranded(history: list[tuple[int, int]]) -> None:
    """Whatever came before, messages that stay unread fire within age plus cooldown."""
    watching, now = watch(), 0.0
    for committed, more in history:
        watching.should_fire(Lag(committed, 0, committed + more), now)
        now += 1
    assert any(watching.should_fire(Lag(7, 0, 8), now + wait) for wait in range(33))


def test_the_stream_is_filtered_by_shard() -> None:
    """Of one shared snapshot each trigger sees its own shard, and hands on where it stands."""
    trigger = ShardLagTrigger(shard=1, conn_id="k", topic="t", shards=2, min_lag=1)

    async def stream() -> AsyncIterator[dict[int, Lag]]:
        yield {0: Lag(0, 0, 9), 1: Lag(3, 0, 3)}
        yield {0: Lag(0, 0, 9), 1: Lag(3, 0, 5)}

    async def fired() -> list[object]:
        return [event.payload async for event in trigger.filter_shared_stream(stream())]

    assert asyncio.run(fired()) == [{"shard": 1, "committed": 3, "end": 5, "lag": 2}]


def test_it_is_made_again_from_what_it_serialises() -> None:
    """Airflow stores a trigger as class path and JSON, and gets an equal one back."""
    trigger = ShardLagTrigger(shard=1, conn_id="k", topic="t", shards=2, min_lag=1, max_age=3.0)
    path, arguments = trigger.serialize()
    assert path == "shard_lag.ShardLagTrigger"
    assert ShardLagTrigger(**arguments).serialize() == trigger.serialize()


def test_triggers_of_one_topic_share_a_poll() -> None:
    """Shards differ, the stream they read is one."""
    one, two = (ShardLagTrigger(shard=n, conn_id="k", topic="t", shards=2, min_lag=1) for n in (0, 1))
    assert one.shared_stream_key() == two.shared_stream_key()
