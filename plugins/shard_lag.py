"""The trigger that starts an ingest run when its shard lags. It only watches; it never consumes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from include.domain.offsets import PartitionLag
from include.settings import KafkaSettings

log = logging.getLogger(__name__)

type Snapshot = dict[int, PartitionLag]

_LONGEST_PAUSE_S = 30.0


class ShardLagTrigger(BaseEventTrigger):
    """Fires while the shard lags: at once with ``min_lag`` messages, otherwise after ``max_age`` seconds of lag.

    Level-triggered: it fires again whenever the offset has moved and messages are left, and every ``cooldown`` seconds
    while it has not moved, so that a lost trigger event delays a shard but never strands it. The event is only a hint;
    the run reads the ledger and the topic itself. All triggers with the same connection and interval share one poll.
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
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Snapshot]:
        """One snapshot of every shard per interval. Never ends: an unavailable broker only slows it down."""
        from include.sources.kafka_lag import LagReader

        reader: LagReader | None = None
        pause = kwargs["interval"]
        while True:
            try:
                if reader is None:
                    reader = LagReader(await _kafka_settings(kwargs["conn_id"]))
                snapshot = await reader.snapshot(kwargs["topic"], range(kwargs["shards"]))
                yield dict(snapshot)
                pause = kwargs["interval"]
            # A trigger that raises is restarted every two seconds for ever, and nobody sees the reason.
            except Exception as error:  # noqa: BLE001
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                log.warning(
                    "cannot read the lag of topic %s, next attempt in %.0f s: %s", kwargs["topic"], pause, error
                )
            await asyncio.sleep(pause)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Snapshot]) -> AsyncIterator[TriggerEvent]:
        watch = LagWatch(self.min_lag, self.max_age, self.cooldown)
        async for snapshot in shared_stream:
            lag = snapshot.get(self.shard)
            if lag is not None and watch.should_fire(lag, time.monotonic()):
                payload = {"committed": lag.start, "end": lag.high, "lag": lag.high - lag.start}
                yield TriggerEvent({"shard": self.shard, **payload})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """With its own poll, for a triggerer that does not share streams."""
        async for event in self.filter_shared_stream(self.open_shared_stream(self.serialize()[1])):
            yield event


class LagWatch:
    """Decides when to fire, without a clock or a broker: ``should_fire(lag, now)`` with ``now`` in seconds."""

    def __init__(self, min_lag: int, max_age: float, cooldown: float) -> None:
        self._min_lag = min_lag
        self._max_age = max_age
        self._cooldown = cooldown
        self._behind_since: float | None = None
        self._fired_at: float | None = None
        self._fired_for: int | None = None

    def should_fire(self, lag: PartitionLag, now: float) -> bool:
        """Whether to fire for this snapshot; remembers it."""
        start = lag.start
        if lag.high <= start:
            self._behind_since = None
            return False
        if self._behind_since is None:
            self._behind_since = now
        # While messages still arrive, a run would leave most of them to the next one: wait for size or age.
        is_due = lag.high - start >= self._min_lag or now - self._behind_since >= self._max_age
        is_new = self._fired_at is None or start != self._fired_for or now - self._fired_at >= self._cooldown
        if not (is_due and is_new):
            return False
        self._fired_at, self._fired_for, self._behind_since = now, start, None
        return True


async def _kafka_settings(conn_id: str) -> KafkaSettings:
    from airflow.sdk import Connection

    connection = await Connection.async_get(conn_id)
    return KafkaSettings.from_properties(connection.extra_dejson)
