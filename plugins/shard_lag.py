"""The trigger that starts an ingest run when its shard lags. It watches; it never consumes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable
from typing import Any, NamedTuple

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from include.settings import KafkaSettings

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0


class Lag(NamedTuple):
    """What one partition looked like: the group's offset (None before the first commit), the low and high end."""

    committed: int | None
    low: int
    high: int


class ShardLagTrigger(BaseEventTrigger):
    """Fires while the shard lags: at once with ``min_lag`` messages, else when the oldest has waited ``max_age`` s.

    Level-triggered: it fires again whenever the offset has moved and messages are left, and every ``cooldown`` s
    while it has not, so that a lost event delays a shard but never strands it. The event is a hint; the run reads
    the ledger and the topic itself. All triggers with the same connection and interval share one poll.
    """

    def __init__(
        self,
        *,
        shard: int,
        conn_id: str,
        topic: str,
        shards: int,
        min_lag: int,
        max_age: float = 2.0,
        interval: float = 1.0,
        cooldown: float = 30.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shard = shard
        self.conn_id = conn_id
        self.topic = topic
        self.shards = shards
        self.min_lag = min_lag
        self.max_age = max_age
        self.interval = interval
        self.cooldown = cooldown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("shard", "conn_id", "topic", "shards", "min_lag", "max_age", "interval", "cooldown")
        return "shard_lag.ShardLagTrigger", {name: getattr(self, name) for name in names}

    def shared_stream_key(self) -> Hashable | None:
        return ("shard lag", self.conn_id, self.topic, self.shards, self.interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[dict[int, Lag]]:
        """One snapshot of every shard per interval. Never ends: a broker that is away only slows it down."""
        from include.sources.kafka_lag import LagReader

        reader: LagReader | None = None
        pause = kwargs["interval"]
        while True:
            try:
                if reader is None:
                    reader = LagReader(await _kafka_settings(kwargs["conn_id"]))
                snapshot = await reader.snapshot(kwargs["topic"], range(kwargs["shards"]))
                yield {shard: Lag(*lag) for shard, lag in snapshot.items()}
                pause = kwargs["interval"]
            # A trigger that raises is restarted every two seconds for ever, and nobody sees why.
            except Exception as error:  # noqa: BLE001
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                log.warning("no lag of topic %s, next try in %.0f s: %s", kwargs["topic"], pause, error)
            await asyncio.sleep(pause)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[dict[int, Lag]]) -> AsyncIterator[TriggerEvent]:
        watch = LagWatch(self.min_lag, self.max_age, self.cooldown)
        async for snapshot in shared_stream:
            lag = snapshot.get(self.shard)
            if lag is not None and watch.due(lag, time.monotonic()):
                start = lag.low if lag.committed is None else lag.committed
                yield TriggerEvent({"shard": self.shard, "committed": start, "end": lag.high, "lag": lag.high - start})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """With a poll of its own, for a triggerer that does not share streams."""
        async for event in self.filter_shared_stream(self.open_shared_stream(self.serialize()[1])):
            yield event


class LagWatch:
    """When to fire, apart from any clock or broker: ``due(lag, now)`` with ``now`` in seconds."""

    def __init__(self, min_lag: int, max_age: float, cooldown: float) -> None:
        self._min_lag = min_lag
        self._max_age = max_age
        self._cooldown = cooldown
        self._behind_since: float | None = None
        self._fired_at: float | None = None
        self._fired_for: int | None = None

    def due(self, lag: Lag, now: float) -> bool:
        """Whether to fire for this snapshot; remembers it."""
        start = lag.low if lag.committed is None else lag.committed
        if lag.high <= start:
            self._behind_since = None
            return False
        if self._behind_since is None:
            self._behind_since = now
        # While messages still come in, a run would leave most of them to the next one: wait for size or age.
        ripe = lag.high - start >= self._min_lag or now - self._behind_since >= self._max_age
        fresh = self._fired_at is None or start != self._fired_for or now - self._fired_at >= self._cooldown
        if not (ripe and fresh):
            return False
        self._fired_at, self._fired_for, self._behind_since = now, start, None
        return True


async def _kafka_settings(conn_id: str) -> KafkaSettings:
    from airflow.sdk import Connection

    connection = await Connection.async_get(conn_id)
    return KafkaSettings.from_properties(connection.extra_dejson)
