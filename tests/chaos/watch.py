"""What a chaos run sees while it is under way: positions of every shard, open batches, and lists that are served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import psycopg2
from confluent_kafka import Consumer, KafkaException, TopicPartition

from include.settings import Settings
from tests.chaos.observations import OffsetSample, Position, VersionWatch

_OFFSETS_EVERY_S = 0.2
_LISTS_EVERY_S = 0.1
#: A poll waits no longer than this for a server that does not answer.
_TIMEOUT_S = 2
_STATE = """
SELECT shard, committed_end, (SELECT count(*) FROM pipeline.batches b
    WHERE b.topic = p.topic AND b.shard = p.shard AND b.mode = 'live' AND b.committed_at IS NULL)
FROM pipeline.positions p WHERE topic = %s
"""


class Poll:
    """Calls ``once`` again and again in a thread of its own, until it is left as a context manager.

    An error of ``once`` ends the thread, and is raised when the context is left.
    """

    def __init__(self, name: str, every_s: float, once: Callable[[], None]) -> None:
        self._every_s = every_s
        self._once = once
        self._stopped = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join(60)
        if self._error is not None and kind is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._every_s):
                self._once()
        except Exception as error:  # noqa: BLE001 - raised in the main thread
            self._error = error


class OffsetWatch:
    """Samples the group's offset and the ledger's position of every shard. ``poll`` is called by one thread."""

    def __init__(self, settings: Settings, shards: int) -> None:
        kafka = settings.kafka
        self._partitions = [TopicPartition(kafka.topic, shard) for shard in range(shards)]
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": kafka.group,
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._dsn, self._topic = settings.warehouse.dsn, kafka.topic
        self._connection: Any = None
        self.samples: list[OffsetSample] = []
        #: By shard, how many batches are claimed and not committed; as of the last sample.
        self.open_batches: Mapping[int, int] = {}
        #: (seconds of ``time.monotonic``, sum of the ledger's positions) whenever it rose.
        self.progress: list[tuple[float, int]] = [(time.monotonic(), 0)]

    @property
    def committed(self) -> int:
        """The sum of the ledger's positions."""
        return self.progress[-1][1]

    def poll(self) -> None:
        """Take one sample; none if a server does not answer."""
        try:
            answers = self._consumer.committed(self._partitions, timeout=_TIMEOUT_S)
            group = {p.partition: p.offset for p in answers if p.error is None}
            state = self._read_ledger()
        except KafkaException:
            return
        except psycopg2.Error:
            self._disconnect()
            return
        self.open_batches = {shard: count for shard, (_, count) in state.items()}
        shards = {
            shard: Position(offset if offset >= 0 else None, state.get(shard, (None, 0))[0])
            for shard, offset in group.items()
        }
        self.samples.append(OffsetSample(round(time.time() * 1000), shards))
        total = sum(end or 0 for end, _ in state.values())
        if total > self.committed:
            self.progress.append((time.monotonic(), total))

    def close(self) -> None:
        """Close the connections."""
        self._disconnect()
        self._consumer.close()

    def _read_ledger(self) -> dict[int, tuple[int | None, int]]:
        if self._connection is None:
            options = f"-c statement_timeout={_TIMEOUT_S * 1000}"
            self._connection = psycopg2.connect(
                self._dsn, connect_timeout=_TIMEOUT_S, options=options, tcp_user_timeout=_TIMEOUT_S * 1000
            )
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('pipeline.positions')")
            if cursor.fetchone()[0] is None:
                return {}
            cursor.execute(_STATE, [self._topic])
            return {shard: (end, count) for shard, end, count in cursor.fetchall()}

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
        self._connection = None


class ListWatch:
    """Reads the lists of some users through the reader. ``poll`` is called by one thread."""

    def __init__(self, url: str, users: Callable[[int], list[str]]) -> None:
        self._client = httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False)
        self._users = users
        self.versions = VersionWatch()
        #: Reads that failed, and those answered with a 5xx status.
        self.failed = self.server_errors = 0

    def poll(self) -> None:
        """Read one list. The popular one does not count: it stands in for a list that the user does not have."""
        for user in self._users(1):
            try:
                response = self._client.get(f"/v1/users/{quote(user, safe='')}/recommendations")
            except httpx.HTTPError:
                self.failed += 1
                return
            self.server_errors += response.is_server_error and response.status_code != httpx.codes.SERVICE_UNAVAILABLE
            if response.is_success and response.json()["source"] != "popular":
                version = datetime.fromisoformat(response.json()["generated_at"])
                self.versions.see(user, round(version.timestamp() * 1000))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def poll_offsets(watch: OffsetWatch) -> Poll:
    """Sample offsets until the end of the context."""
    return Poll("offsets", _OFFSETS_EVERY_S, watch.poll)


def poll_lists(watch: ListWatch) -> Poll:
    """Read lists until the end of the context."""
    return Poll("lists", _LISTS_EVERY_S, watch.poll)
