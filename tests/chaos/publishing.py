"""Publishes the load at a steady rate while Kafka comes and goes, and counts what was acknowledged."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from include.settings import KafkaSettings
from tests.chaos.load import Load
from tests.chaos.watch import Poll

_EVERY_S = 0.5
#: librdkafka tries for so long to deliver a message: longer than any fault of Kafka.
_DELIVERY_S = 240


class SteadyPublisher:
    """``poll`` is called by one thread; each call publishes what is due at ``rate`` messages per second."""

    def __init__(self, settings: KafkaSettings, load: Load, rate: float) -> None:
        self._topic = settings.topic
        self._load = load
        self._rate = rate
        self._began = time.monotonic()
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": _DELIVERY_S * 1000,
                "reconnect.backoff.max.ms": 1000,
                "linger.ms": 50,
                "compression.type": "zstd",
                "log_level": 0,
            }
        )
        self.sent = 0
        self.acknowledged: Counter[int] = Counter()
        #: Messages that Kafka may or may not have.
        self.unknown = 0
        self.classes: Counter[str] = Counter()

    def poll(self) -> None:
        """Publish what is due. After an outage the backlog follows at once."""
        due = int((time.monotonic() - self._began) * self._rate) - self.sent
        for message in self._load.take(max(0, due), datetime.now(UTC)):
            self._send(message.shard, message.key, message.value)
            self.classes[message.made_for] += 1
        self.sent += max(0, due)
        self._producer.poll(0)

    def finish(self) -> None:
        """Wait until every message is acknowledged or has failed. Raises ``TimeoutError`` if Kafka stays away."""
        left = self._producer.flush(_DELIVERY_S + 10)
        if left:
            raise TimeoutError(f"Kafka has not acknowledged {left} messages")

    def _send(self, shard: int, key: bytes | None, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, shard, on_delivery=self._count)
            except BufferError:
                self._producer.poll(0.2)
                continue
            except KafkaException:
                self.unknown += 1
            return

    def _count(self, error: KafkaError | None, message: Message) -> None:
        partition = message.partition()
        if error is None and partition is not None:
            self.acknowledged[partition] += 1
        else:
            self.unknown += 1


def poll_load(publisher: SteadyPublisher) -> Poll:
    """Publish until the end of the context."""
    return Poll("publisher", _EVERY_S, publisher.poll)
