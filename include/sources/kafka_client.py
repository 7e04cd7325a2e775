"""What every Kafka adapter shares: properties, errors as ours, and reading a stretch of a partition."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from include.errors import OffsetsGoneError, PermanentError, TransientError
from include.settings import KafkaSettings

#: The longest that a request to the broker may take.
REQUEST_S = 10
#: A partition that gives nothing for so long, though it should, is a broker that is away.
STALL_S = 20

#: librdkafka properties by name.
type Properties = dict[str, str | int | float | bool]

log = logging.getLogger("millrace.kafka")

_POLL_S = 1.0
#: Records are handed on in chunks of about this size, so that memory stays flat whatever the messages' length.
_CHUNK_BYTES = 8 * 2**20
_CHUNK_MESSAGES = 10_000
_FIRST_CHUNK = 500

#: Answers that no retry will change: who we are, what we may do, what does not exist, how we are set up.
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


def properties(settings: KafkaSettings, ours: Properties, fixed: Properties) -> Properties:
    """librdkafka properties: our defaults, over them the settings' options, over them what correctness needs."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": "millrace",
        "socket.timeout.ms": REQUEST_S * 1000,
        "reconnect.backoff.max.ms": 1_000,
        "log.connection.close": False,
        **ours,
        **settings.options,
        **fixed,
    }


def consumer(settings: KafkaSettings) -> Consumer:
    """A consumer for ``assign`` alone: it never joins the group, never commits by itself, and never skips.

    The caller closes it.
    """
    ours: Properties = {
        # Also how long a commit waits for a coordinator.
        "session.timeout.ms": REQUEST_S * 1000,
        "queued.max.messages.kbytes": 32_768,
        # A fetch that waits at the end of one partition holds up the next stretch that is read.
        "fetch.wait.max.ms": 100,
    }
    fixed: Properties = {
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # An offset that is gone must be seen, not jumped over.
        "auto.offset.reset": "error",
        # The only sign that a stretch ends in offsets that hold no message (transaction marks, compacted ones).
        "enable.partition.eof": True,
        "check.crcs": True,
    }
    with translated():
        return Consumer(properties(settings, ours, fixed), logger=log)


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as ours: what passes by itself is transient, and what we do not know is too."""
    try:
        yield
    except KafkaException as exc:
        raise as_ours(exc.args[0]) from exc


def as_ours(error: KafkaError) -> PermanentError | TransientError:
    """The error of ours that says the same."""
    if error.code() in _GONE:
        return OffsetsGoneError(f"Kafka: {error.str()}")
    kind = PermanentError if error.code() in _PERMANENT else TransientError
    return kind(f"Kafka: {error.str()} ({error.name()})")


def fetch(consumer: Consumer, topic: str, partition: int, start: int, end: int) -> Iterator[Sequence[Message]]:
    """The messages of ``[start, end)`` in order, in chunks of bounded size; all of them are there.

    It ends by offsets, not by a count of messages: some offsets hold none. Ends the consumer's other assignments.
    """
    with translated():
        consumer.assign([TopicPartition(topic, partition, start)])
    try:
        position, size, heard = start, _FIRST_CHUNK, time.monotonic()
        while position < end:
            with translated():
                batch = consumer.consume(min(size, end - position), timeout=_POLL_S)
            chunk, reached = _sort_out(batch, position, end)
            if reached > position:
                position, heard = reached, time.monotonic()
            elif time.monotonic() - heard > STALL_S:
                raise TransientError(
                    f"Kafka: {topic}[{partition}] gives nothing from offset {position} on, up to {end}"
                )
            if chunk:
                size = max(1, min(_CHUNK_MESSAGES, _CHUNK_BYTES * len(chunk) // (1 + sum(map(len, chunk)))))
                yield chunk
    finally:
        consumer.unassign()


def raise_if_failed(partition: TopicPartition) -> None:
    """Raise the error that an answer carries for one partition."""
    if partition.error is not None:
        raise as_ours(partition.error)


def _sort_out(batch: Sequence[Message], position: int, end: int) -> tuple[list[Message], int]:
    """The messages before ``end``, and the offset that the reading has come to."""
    chunk = []
    for message in batch:
        error = message.error()
        if error is None:
            chunk.append(message)
        elif error.code() != KafkaError._PARTITION_EOF:
            raise as_ours(error)
        offset = message.offset()
        if offset is not None:
            position = max(position, offset + (error is None))
    while chunk and (chunk[-1].offset() or 0) >= end:
        chunk.pop()
    return chunk, position
