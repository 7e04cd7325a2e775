"""The topics: created if missing, checked if they exist."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from include.domain.offsets import TopicDescription
from include.errors import ConfigurationError
from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, build_properties, log, translate_errors

#: Headers make a dead letter longer than its message. It must still fit, or one message stops its shard.
_DEAD_LETTER_BYTES = 16 * 2**20


def ensure_topics(settings: KafkaSettings, shards: int) -> None:
    """Create the topic of events with ``shards`` partitions, and the topic of dead letters, if they are missing.

    Raises ``ConfigurationError`` if the topic has another number of partitions: users would be assigned to other
    shards. May run again, and concurrently.
    """
    with translate_errors():
        admin = AdminClient(build_properties(settings, {}, {}), logger=log)
    is_new = _create(admin, NewTopic(settings.topic, num_partitions=shards))
    bytes_allowed = {"max.message.bytes": str(_DEAD_LETTER_BYTES)}
    _create(admin, NewTopic(settings.dead_letter_topic, num_partitions=shards, config=bytes_allowed))
    # Brokers may not know a new topic yet, but it has the requested partitions.
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


def _create(admin: AdminClient, topic: NewTopic) -> bool:
    """Whether the topic was created now; False if it existed."""
    with translate_errors():
        futures = admin.create_topics([topic], operation_timeout=REQUEST_S, request_timeout=REQUEST_S)
        try:
            futures[topic.topic].result(timeout=2 * REQUEST_S)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
    return True
