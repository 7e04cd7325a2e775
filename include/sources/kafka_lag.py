"""How far a group is behind: one snapshot of all shards, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from include.domain.offsets import PartitionLag
from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, build_properties, log, raise_if_failed, translate_errors

_EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class LagReader:
    """Queries the brokers; consumes nothing and joins no group. Use it from one event loop at a time."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._group = settings.group
        with translate_errors():
            self._admin = AdminClient(build_properties(settings, {}, {}), logger=log)

    async def snapshot(self, topic: str, shards: Iterable[int]) -> Mapping[int, PartitionLag]:
        """The lag of each shard, in three concurrent requests whatever the number of shards."""
        partitions = [TopicPartition(topic, shard) for shard in shards]
        lows, highs, committed = await asyncio.gather(
            self._offsets(partitions, _EARLIEST),
            self._offsets(partitions, _LATEST),
            self._committed(partitions),
        )
        return {shard: PartitionLag(committed.get(shard), lows[shard], highs[shard]) for shard in lows}

    async def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        with translate_errors():
            futures = self._admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=REQUEST_S)
            return {partition.partition: (await _wait_for(future)).offset for partition, future in futures.items()}

    async def _committed(self, partitions: list[TopicPartition]) -> dict[int, int]:
        request = [ConsumerGroupTopicPartitions(self._group, partitions)]
        with translate_errors():
            futures = self._admin.list_consumer_group_offsets(request, request_timeout=REQUEST_S)
            answer = await _wait_for(futures[self._group])
        for partition in answer.topic_partitions:
            raise_if_failed(partition)
        return {each.partition: each.offset for each in answer.topic_partitions if each.offset >= 0}


async def _wait_for(future: Any) -> Any:
    return await asyncio.wrap_future(future)
