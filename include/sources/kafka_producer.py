"""Producing to Kafka: every message acknowledged, or an error."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from include.errors import TransientError
from include.settings import KafkaSettings
from include.sources.kafka_client import Properties, as_ours, log, properties, translated

#: How long librdkafka goes on trying to deliver a message.
DELIVERY_S = 25
#: Longer, so that a flush ends with every message either acknowledged or given up.
_FLUSH_S = 28
#: Delivery reports are served at every so many messages.
_POLL_EVERY = 500


class AckedProducer:
    """An idempotent producer. As long as it lives, no message is there twice or out of order; one that is sent
    again by another producer is there twice. Nothing is certain before ``flush`` has returned."""

    def __init__(self, settings: KafkaSettings) -> None:
        ours: Properties = {
            "compression.type": "zstd",
            "delivery.timeout.ms": DELIVERY_S * 1000,
            "linger.ms": 20,
            # What waits in the queue is memory.
            "queue.buffering.max.kbytes": 65_536,
            "queue.buffering.max.messages": 100_000,
            # This limit is on uncompressed bytes and by default below the broker's: let the broker judge.
            "message.max.bytes": 64 * 2**20,
        }
        with translated():
            self._producer = Producer(
                properties(settings, ours, {"enable.idempotence": True, "acks": "all"}), logger=log
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
        """Queue a message; waits while the queue is full. Without a timestamp it is published now."""
        if not self._queued(topic, key, value, partition, timestamp_ms or 0, headers):
            deadline = time.monotonic() + _FLUSH_S
            while not self._queued(topic, key, value, partition, timestamp_ms or 0, headers):
                if time.monotonic() > deadline:
                    raise TransientError(f"Kafka: takes no messages; {len(self._producer)} wait")
                self._producer.poll(0.1)
        self._sent += 1
        if self._sent % _POLL_EVERY == 0:
            self._producer.poll(0)

    def flush(self) -> None:
        """Return when every message sent since the last ``flush`` is acknowledged by all replicas in sync."""
        with translated():
            self._producer.flush(_FLUSH_S)
        sent, delivered, failed, failure = self._sent, self._delivered, self._failed, self._failure
        self._sent = self._delivered = self._failed = 0
        self._failure = None
        if failure is not None:
            error = as_ours(failure)
            raise type(error)(f"{error}: {failed} of {sent} messages are not delivered")
        if delivered != sent:
            raise TransientError(f"Kafka: {sent - delivered} of {sent} messages are not acknowledged in {_FLUSH_S} s")

    def close(self) -> None:
        """Drop what is not flushed and close the connections. The producer is of no use afterwards."""
        self._producer.purge()
        self._producer.close()

    def _queued(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int,
        timestamp: int,
        headers: Sequence[tuple[str, bytes]],
    ) -> bool:
        # No ``translated()`` here: it would cost as much as the call.
        try:
            self._producer.produce(topic, value, key, partition, self._report, None, timestamp, list(headers))
        except BufferError:
            return False
        except KafkaException as exc:
            raise as_ours(exc.args[0]) from exc
        return True

    def _report(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self._delivered += 1
        else:
            self._failed += 1
            self._failure = self._failure or error


class Publisher:
    """Publishes events: what stands for the producers that feed the pipeline."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.topic
        self._producer = AckedProducer(settings)

    def send(self, partition: int, key: bytes | None, value: bytes | None, timestamp_ms: int | None = None) -> None:
        """Queue one message for that partition; waits while the queue is full."""
        self._producer.send(self._topic, key=key, value=value, partition=partition, timestamp_ms=timestamp_ms)

    def flush(self) -> None:
        """Return when every message sent since the last ``flush`` is acknowledged; else raise."""
        self._producer.flush()

    def close(self) -> None:
        """Drop what is not flushed and close the connections."""
        self._producer.close()
