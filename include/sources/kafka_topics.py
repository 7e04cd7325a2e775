"""The topics: made if absent, checked if present."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from include.errors import ConfigurationError
from include.settings import KafkaSettings
from include.sources.kafka_client import REQUEST_S, log, properties, translated

#: A dead letter is longer than the message it holds, by the headers. It must fit, or one message stops its shard.
_DEAD_LETTER_BYTES = 16 * 2**20


def ensure_topics(settings: KafkaSettings, shards: int) -> None:
    """Make the topic of events with ``shards`` partitions, and that of dead letters, where they are absent.

    Raises ``ConfigurationError`` if events are spread over another number of partitions: each user's shard would be
    another. May run again, and beside itself.
    """
    with translated():
        admin = AdminClient(properties(settings, {}, {}), logger=log)
    is_new = _create(admin, NewTopic(settings.topic, num_partitions=shards))
    bytes_allowed = {"max.message.bytes": str(_DEAD_LETTER_BYTES)}
    _create(admin, NewTopic(settings.dead_letter_topic, num_partitions=shards, config=bytes_allowed))
    # Brokers may not have heard yet of a topic that was just made, and it is as we asked for.
    found = shards if is_new else _partitions(admin, settings.topic)
    if found != shards:
        raise ConfigurationError(
            f"the topic {settings.topic} has {found} partitions, but shards is {shards}: set shards to {found}, or "
            "make the topic and every store anew"
        )


def _create(admin: AdminClient, topic: NewTopic) -> bool:
    """Whether it was made now; False when it was there already."""
    with translated():
        futures = admin.create_topics([topic], operation_timeout=REQUEST_S, request_timeout=REQUEST_S)
        try:
            futures[topic.topic].result(timeout=2 * REQUEST_S)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
    return True


def _partitions(admin: AdminClient, topic: str) -> int:
    with translated():
        found = admin.list_topics(topic, timeout=REQUEST_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
    return len(found.partitions)
