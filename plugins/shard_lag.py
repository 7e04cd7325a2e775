"""The trigger that starts an ingest run when its shard lags. It only watches; it never consumes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from connection_fields import warehouse_settings
from include.domain.offsets import PartitionLag
from include.errors import without_values
from include.settings import KafkaSettings

if TYPE_CHECKING:
    from include.sources.kafka_offsets import OffsetReader
    from include.stores.warehouse.positions import PositionReader

log = logging.getLogger(__name__)

type Snapshot = dict[int, PartitionLag]

_LONGEST_PAUSE_S = 30.0
#: A warehouse that does not answer must not stop the trigger for ever.
_LEDGER_TIMEOUT_S = 30.0
#: How often a wrong number of shards is reported.
_REPORT_S = 60.0

#: Triggers that agree on these, and on the interval, share one poll.
_SHARED = ("kafka_conn_id", "warehouse_conn_id", "topic", "shards")
_TIMES = ("max_age", "interval", "cooldown")


class ShardLagTrigger(BaseEventTrigger):
    """Fires while the shard lags: at once with ``min_lag`` messages, otherwise after ``max_age`` seconds of lag.

    Level-triggered: it fires again whenever the offset has moved and messages are left, and every ``cooldown`` seconds
    while it has not moved, so that a lost trigger event delays a shard but never strands it. The event is only a hint;
    the run reads the ledger and the topic itself. All triggers with the same connections and interval share one poll.
    """

    def __init__(
        self,
        *,
        shard: int,
        kafka_conn_id: str,
        warehouse_conn_id: str,
        topic: str,
        shards: int,
        min_lag: int,
        max_age: float = 2.0,
        interval: float = 1.0,
        cooldown: float = 30.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shard = shard
        self.kafka_conn_id = kafka_conn_id
        self.warehouse_conn_id = warehouse_conn_id
        self.topic = topic
        self.shards = shards
        self.min_lag = min_lag
        self.max_age = max_age
        self.interval = interval
        self.cooldown = cooldown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("shard", "min_lag", *_SHARED, *_TIMES)
        return "shard_lag.ShardLagTrigger", {name: getattr(self, name) for name in names}

    def shared_stream_key(self) -> Hashable | None:
        return ("shard lag", self.interval, *(getattr(self, name) for name in _SHARED))

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Snapshot]:
        """One snapshot of every shard per interval. Never ends: an unavailable server only slows it down."""
        reader: LagReader | None = None
        partitions = PartitionCheck(kwargs["topic"], kwargs["shards"])
        pause = kwargs["interval"]
        while True:
            try:
                if reader is None:
                    reader = await LagReader.connect(kwargs["kafka_conn_id"], kwargs["warehouse_conn_id"])
                snapshot = await reader.snapshot(kwargs["topic"])
                partitions.report(len(snapshot), time.monotonic())
                yield snapshot
                pause = kwargs["interval"]
            # A trigger that raises is restarted every two seconds for ever, and nobody sees the reason.
            except Exception as error:  # noqa: BLE001
                reader = None
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                topic, cause = kwargs["topic"], without_values(error)
                log.warning("cannot read the lag of topic %s, next attempt in %.0f s: %s", topic, pause, cause)
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


class LagReader:
    """How far the ledger is behind the topic. The group's offset would not do: Kafka forgets it after a week without
    commits, and after a restore of the warehouse it is ahead of what the stores have.
    """

    def __init__(self, offsets: OffsetReader, positions: PositionReader) -> None:
        self._offsets = offsets
        self._positions = positions

    @classmethod
    async def connect(cls, kafka_conn_id: str, warehouse_conn_id: str) -> LagReader:
        """From Airflow's connections."""
        from airflow.sdk import Connection

        from include.sources.kafka_offsets import OffsetReader
        from include.stores.warehouse.positions import PositionReader

        kafka = await Connection.async_get(kafka_conn_id)
        warehouse = await Connection.async_get(warehouse_conn_id)
        offsets = OffsetReader(KafkaSettings.from_properties(kafka.extra_dejson))
        return cls(offsets, PositionReader(warehouse_settings(warehouse)))

    async def snapshot(self, topic: str) -> Snapshot:
        """The lag of each partition that the topic has now."""
        # The ledger first: the topic can only have grown by the time it is read, so no lag is negative.
        reading = asyncio.to_thread(self._positions.read, topic)
        positions = await asyncio.wait_for(reading, _LEDGER_TIMEOUT_S)
        offsets = await self._offsets.snapshot(topic)
        return {shard: PartitionLag(positions.get(shard), low, high) for shard, (low, high) in offsets.items()}


class PartitionCheck:
    """Reports that the topic has another number of partitions than there are shards: nobody would read the rest."""

    def __init__(self, topic: str, shards: int) -> None:
        self._topic = topic
        self._shards = shards
        self._reported_at: float | None = None

    def report(self, partitions: int, now: float) -> None:
        """Log an error if the numbers differ, at most once a minute; ``now`` in seconds."""
        if partitions == self._shards or (self._reported_at is not None and now - self._reported_at < _REPORT_S):
            return
        self._reported_at = now
        log.error(
            "the topic %s has %d partitions, but MILLRACE_SHARDS is %d: set it to %d and restart Airflow",
            self._topic, partitions, self._shards, partitions,
        )  # fmt: skip
