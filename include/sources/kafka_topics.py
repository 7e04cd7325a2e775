"""The topics: created if missing, checked if they exist."""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from include.domain.offsets import TopicDescription
from include.errors import ConfigurationError
from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, build_properties, log, translate_errors

#: Headers make a dead letter longer than its message. It must still fit, or one message stops its shard.
_DEAD_LETTER_BYTES = 16 * 2**20

_NO_LEADER = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError._NOENT,
    }
)


def ensure_topics(settings: KafkaSettings, shards: int) -> None:
    """Create the topic of events with ``shards`` partitions, and the topic of dead letters, if they are missing.

    Raises ``ConfigurationError`` if the topic has another number of partitions: users would be assigned to other
    shards. May run again, and concurrently.
    """
    with translate_errors():
        admin = AdminClient(build_properties(settings, {}, {}), logger=log)
    is_new = _create(settings, admin, settings.topic, shards, {})
    bytes_allowed = {"max.message.bytes": str(_DEAD_LETTER_BYTES)}
    _create(settings, admin, settings.dead_letter_topic, shards, bytes_allowed)
    partitions = shards if is_new else describe_topic(settings).partitions
    if partitions != shards:
        raise ConfigurationError(
            f"the topic {settings.topic} has {partitions} partitions, but shards is {shards}: set shards to "
            f"{partitions}, or recreate the topic and every store"
        )


def describe_topic(settings: KafkaSettings) -> TopicDescription:
    """The id of the topic of events and its number of partitions."""
    with translate_errors():
        admin = AdminClient(build_properties(settings, {}, {}), logger=log)
        topics = admin.describe_topics(TopicCollection([settings.topic]), request_timeout=REQUEST_S)
        description = topics[settings.topic].result(timeout=2 * REQUEST_S)
    return TopicDescription(str(description.topic_id), len(description.partitions))


def _create(settings: KafkaSettings, admin: AdminClient, topic: str, partitions: int, config: dict[str, str]) -> bool:
    """Whether the topic was created now, and can be used; False if it existed."""
    new = NewTopic(topic, num_partitions=partitions, config=config)
    with translate_errors():
        futures = admin.create_topics([new], operation_timeout=REQUEST_S, request_timeout=REQUEST_S)
        try:
            futures[topic].result(timeout=2 * REQUEST_S)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
        _wait_for_leaders(settings, [TopicPartition(topic, number) for number in range(partitions)])
    return True


def _wait_for_leaders(settings: KafkaSettings, partitions: list[TopicPartition]) -> None:
    """The broker that created a topic returns before the leaders of its partitions accept requests."""
    newest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + 2 * REQUEST_S
    while True:
        # A client would go on with the leaders, or the lack of them, that it has seen first.
        admin = AdminClient(build_properties(settings, {}, {}), logger=log)
        futures = admin.list_offsets(dict.fromkeys(partitions, newest), request_timeout=REQUEST_S)
        try:
            for future in futures.values():
                future.result(timeout=2 * REQUEST_S)
        except KafkaException as exc:
            if exc.args[0].code() not in _NO_LEADER or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
