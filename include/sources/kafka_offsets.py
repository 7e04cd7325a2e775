"""The offsets of every partition: one snapshot, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from confluent_kafka import TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from include.domain.offsets import Offsets
from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, build_properties, log, translate_errors

_EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class OffsetReader:
    """Queries the brokers; consumes nothing and joins no group. Use it from one event loop at a time."""

    def __init__(self, settings: KafkaSettings) -> None:
        with translate_errors():
            self._admin = AdminClient(build_properties(settings, {}, {}), logger=log)

    async def snapshot(self, topic: str) -> Mapping[int, Offsets]:
        """``[low, high)`` of each partition that the topic has now, in three requests however many there are."""
        with translate_errors():
            topics = self._admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_S)
            description = await _wait_for(topics[topic])
        partitions = [TopicPartition(topic, partition.id) for partition in description.partitions]
        lows, highs = await asyncio.gather(self._offsets(partitions, _EARLIEST), self._offsets(partitions, _LATEST))
        return {shard: Offsets(lows[shard], highs[shard]) for shard in lows}

    async def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        with translate_errors():
            futures = self._admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=REQUEST_S)
            return {partition.partition: (await _wait_for(future)).offset for partition, future in futures.items()}


async def _wait_for(future: Any) -> Any:
    return await asyncio.wrap_future(future)
