"""The reader's Prometheus metrics.

With several workers, prometheus_client shares their values through files (see ``shared_metrics``): whichever worker
answers ``/metrics`` reports the totals of all of them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from include.serving.shared_metrics import DIRECTORY_VARIABLE

#: Upper bounds in seconds; a last bucket takes everything above.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)

#: Failed connections and lost ones (``away``), error replies, and values that cannot be decoded.
type RedisError = Literal["away", "reply", "unreadable"]

# The library would add a series with the creation time for every counter and histogram.
disable_created_metrics()


class Metrics:
    """One worker's metrics. The children of labelled metrics are looked up once: ``labels()`` is slow."""

    def __init__(self) -> None:
        self._directory = os.environ.get(DIRECTORY_VARIABLE)
        self._registry = CollectorRegistry()
        # If values are shared, a collector reads them from the files, and the metrics themselves are not registered.
        registry = None if self._directory else self._registry
        if self._directory:
            MultiProcessCollector(self._registry, self._directory)
        self._requests = Counter("millrace_reader_requests", "HTTP requests by status", ["status"], registry=registry)
        self._answers = Counter(
            "millrace_reader_answers", "Lists served, by source", ["source", "partial"], registry=registry
        )
        redis_errors = Counter("millrace_reader_redis_errors", "Redis errors by kind", ["kind"], registry=registry)
        self._notes_dropped = Counter(
            "millrace_reader_notes_dropped",
            "Recent readers dropped: the buffer was full, or the id too long",
            registry=registry,
        )
        self._breaker_open = Gauge(
            "millrace_reader_breaker_open",
            "1 while any worker treats Redis as unavailable",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._generation_known = Gauge(
            "millrace_reader_generation_known",
            "1 once every worker has read the current generation",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._request_seconds = Histogram(
            "millrace_reader_request_seconds",
            "Time from the arrival of a request to its response",
            registry=registry,
            buckets=BUCKETS,
        )
        self._requests_by_status: dict[int, Counter] = {}
        self._answers_by_labels: dict[tuple[str, bool], Counter] = {}
        kinds: tuple[RedisError, ...] = ("away", "reply", "unreadable")
        self._redis_errors = {kind: redis_errors.labels(kind) for kind in kinds}

    def observe_request(self, status: int, seconds: float) -> None:
        """Count a request that was answered, and its duration."""
        requests = self._requests_by_status.get(status)
        if requests is None:
            requests = self._requests_by_status[status] = self._requests.labels(str(status))
        requests.inc()
        self._request_seconds.observe(seconds)

    def count_answer(self, source: str, partial: bool) -> None:
        """Count a list that was served."""
        answers = self._answers_by_labels.get((source, partial))
        if answers is None:
            answers = self._answers_by_labels[source, partial] = self._answers.labels(source, str(partial).lower())
        answers.inc()

    def count_redis_error(self, kind: RedisError) -> None:
        """Count an error of Redis."""
        self._redis_errors[kind].inc()

    def count_dropped_readers(self, number: int) -> None:
        """Count recent readers that were not recorded."""
        self._notes_dropped.inc(number)

    def set_breaker_open(self, is_open: bool) -> None:
        """Record whether the circuit breaker is open."""
        self._breaker_open.set(is_open)

    def set_generation_known(self, is_known: bool) -> None:
        """Record whether the current generation has been read."""
        self._generation_known.set(is_known)

    def render(self) -> bytes:
        """Render all metrics in Prometheus' text format, version 0.0.4."""
        if self._directory:
            _remove_dead_gauges(Path(self._directory))
        return generate_latest(self._registry)


def _remove_dead_gauges(directory: Path) -> None:
    """Remove the gauges of workers that have exited; their counters stay, or the totals would go down."""
    for file in directory.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):  # the latter if another user's process has the pid now
            with suppress(FileNotFoundError):  # another worker may be doing the same
                mark_process_dead(pid, str(directory))
