"""Shared by the Kafka adapters: properties, error translation, and reading a range of a partition."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from include.errors import OffsetsGoneError, PermanentError, TransientError
from include.settings import KafkaSettings

#: The longest time a request to the broker may take.
REQUEST_S = 10
#: If a partition that holds messages delivers none for this long, the broker is considered unavailable.
STALL_S = 20

#: librdkafka properties by name.
type Properties = dict[str, str | int | float | bool]

log = logging.getLogger("millrace.kafka")

_POLL_S = 1.0
#: Records are yielded in chunks of about this size, so that memory stays flat whatever the length of messages.
_CHUNK_BYTES = 8 * 2**20
_CHUNK_MESSAGES = 10_000
_FIRST_CHUNK = 500

#: Errors that no retry will change: authentication, authorization, missing topics, configuration.
_PERMANENT = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._INVALID_ARG,
        KafkaError._SSL,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.POLICY_VIOLATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


def build_properties(settings: KafkaSettings, defaults: Properties, required: Properties) -> Properties:
    """librdkafka properties: defaults, overridden by the settings' options, overridden by what correctness requires."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": "millrace",
        "socket.timeout.ms": REQUEST_S * 1000,
        "reconnect.backoff.max.ms": 1_000,
        "log.connection.close": False,
        **defaults,
        **settings.options,
        **required,
    }


def open_consumer(settings: KafkaSettings) -> Consumer:
    """A consumer for ``assign`` only: it never joins the group, never auto-commits, and never skips offsets.

    The caller closes it.
    """
    defaults: Properties = {
        # Also limits how long a commit waits for a coordinator.
        "session.timeout.ms": REQUEST_S * 1000,
        "queued.max.messages.kbytes": 32_768,
        # A fetch that waits at the end of one partition delays the next range that is read.
        "fetch.wait.max.ms": 100,
    }
    required: Properties = {
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A missing offset must be noticed, not skipped.
        "auto.offset.reset": "error",
        # The only sign that a range ends in offsets without messages (transaction markers, compacted ones).
        "enable.partition.eof": True,
        "check.crcs": True,
    }
    with translate_errors():
        return Consumer(build_properties(settings, defaults, required), logger=log)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise driver errors as a ``TransientError`` or ``PermanentError``; unknown ones count as transient."""
    try:
        yield
    except KafkaException as exc:
        raise to_millrace_error(exc.args[0]) from None


def to_millrace_error(error: KafkaError) -> PermanentError | TransientError:
    """The MillraceError that corresponds to a driver's error."""
    # The text that belongs to the code. The error's own may be the broker's, about a message.
    text = KafkaError(error.code()).str()
    if error.code() in _GONE:
        return OffsetsGoneError(f"Kafka: {text}")
    kind = PermanentError if error.code() in _PERMANENT else TransientError
    return kind(f"Kafka: {text} ({error.name()}); check kafka_default")


def fetch(consumer: Consumer, topic: str, partition: int, start: int, end: int) -> Iterator[Sequence[Message]]:
    """The messages of ``[start, end)`` in order, in chunks of bounded size. The partition must hold the whole range.

    Ends by offset, not by the number of messages: some offsets hold none. Replaces the consumer's other assignments.
    """
    with translate_errors():
        consumer.assign([TopicPartition(topic, partition, start)])
    try:
        position, size, progressed_at = start, _FIRST_CHUNK, time.monotonic()
        while position < end:
            with translate_errors():
                batch = consumer.consume(min(size, end - position), timeout=_POLL_S)
            chunk, next_position = _split_batch(batch, position, end)
            if next_position > position:
                position, progressed_at = next_position, time.monotonic()
            elif time.monotonic() - progressed_at > STALL_S:
                raise TransientError(
                    f"Kafka: {topic}[{partition}] no messages received from offset {position} (expected up to {end})"
                )
            if chunk:
                size = max(1, min(_CHUNK_MESSAGES, _CHUNK_BYTES * len(chunk) // (1 + sum(map(len, chunk)))))
                yield chunk
    finally:
        consumer.unassign()


def raise_if_failed(partition: TopicPartition) -> None:
    """Raise the error of one partition in an answer, if it has one."""
    if partition.error is not None:
        raise to_millrace_error(partition.error)


def _split_batch(batch: Sequence[Message], position: int, end: int) -> tuple[list[Message], int]:
    """The messages before ``end``, and the next offset to read."""
    chunk = []
    for message in batch:
        error = message.error()
        if error is None:
            chunk.append(message)
        elif error.code() != KafkaError._PARTITION_EOF:
            raise to_millrace_error(error)
        offset = message.offset()
        if offset is not None:
            position = max(position, offset + (error is None))
    while chunk and (chunk[-1].offset() or 0) >= end:
        chunk.pop()
    return chunk, position
