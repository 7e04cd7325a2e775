"""Producing to Kafka: every message acknowledged, or an error."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from include.errors import TransientError
from include.settings import KafkaSettings
from include.sources.kafka_client import Properties, build_properties, log, to_millrace_error, translate_errors

#: How long librdkafka tries to deliver a message.
DELIVERY_S = 25
#: Longer than that, so that a flush ends with every message either acknowledged or failed.
_FLUSH_S = 28
#: Delivery reports are handled every this many messages.
_POLL_EVERY = 500


class AckedProducer:
    """An idempotent producer: one instance never duplicates or reorders messages; a message that another instance sends
    again is stored twice. Delivery is certain only once ``flush`` has returned.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        defaults: Properties = {
            "compression.type": "zstd",
            "delivery.timeout.ms": DELIVERY_S * 1000,
            "linger.ms": 20,
            # Queued messages take memory.
            "queue.buffering.max.kbytes": 65_536,
            "queue.buffering.max.messages": 100_000,
            # Limits uncompressed bytes, and is lower than the broker's limit by default: let the broker decide.
            "message.max.bytes": 64 * 2**20,
        }
        with translate_errors():
            self._producer = Producer(
                build_properties(settings, defaults, {"enable.idempotence": True, "acks": "all"}), logger=log
            )
        self._sent = self._delivered = self._failed = 0
        self._failure: KafkaError | None = None

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int = -1,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Queue a message; waits while the queue is full. Without a timestamp, the current time is used."""
        if not self._enqueue(topic, key, value, partition, timestamp_ms or 0, headers):
            deadline = time.monotonic() + _FLUSH_S
            while not self._enqueue(topic, key, value, partition, timestamp_ms or 0, headers):
                if time.monotonic() > deadline:
                    raise TransientError(f"Kafka is not accepting messages; {len(self._producer)} are queued")
                self._producer.poll(0.1)
        self._sent += 1
        if self._sent % _POLL_EVERY == 0:
            self._producer.poll(0)

    def flush(self) -> None:
        """Return when every message sent since the last ``flush`` is acknowledged by all replicas in sync."""
        with translate_errors():
            self._producer.flush(_FLUSH_S)
        sent, delivered, failed, failure = self._sent, self._delivered, self._failed, self._failure
        self._sent = self._delivered = self._failed = 0
        self._failure = None
        if failure is not None:
            error = to_millrace_error(failure)
            raise type(error)(f"{error}: {failed} of {sent} messages were not delivered")
        if delivered != sent:
            raise TransientError(f"Kafka did not acknowledge {sent - delivered} of {sent} messages within {_FLUSH_S} s")

    def close(self) -> None:
        """Drop unflushed messages and close the connections. Do not use the producer after closing it."""
        self._producer.purge()
        self._producer.close()

    def _enqueue(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int,
        timestamp: int,
        headers: Sequence[tuple[str, bytes]],
    ) -> bool:
        # Not ``translate_errors()``: the context manager would cost as much as the call.
        try:
            self._producer.produce(topic, value, key, partition, self._report, None, timestamp, list(headers))
        except BufferError:
            return False
        except KafkaException as exc:
            raise to_millrace_error(exc.args[0]) from None
        return True

    def _report(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self._delivered += 1
        else:
            self._failed += 1
            self._failure = self._failure or error


class Publisher:
    """Publishes events, in place of the producers that feed the pipeline."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.topic
        self._producer = AckedProducer(settings)

    def send(
        self,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Queue one message for this partition; waits while the queue is full."""
        self._producer.send(
            self._topic, key=key, value=value, partition=partition, timestamp_ms=timestamp_ms, headers=headers
        )

    def flush(self) -> None:
        """Return when every message sent since the last ``flush`` is acknowledged; raises otherwise."""
        self._producer.flush()

    def close(self) -> None:
        """Drop unflushed messages and close the connections."""
        self._producer.close()
