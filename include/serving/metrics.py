"""What the reader counts, and how Prometheus reads it. One worker counts for itself alone."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

#: Upper bounds in seconds; the last bucket is everything above.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)


class Metrics:
    """Plain numbers: the event loop is the only one who touches them."""

    def __init__(self) -> None:
        #: Requests by status.
        self.requests: Counter[int] = Counter()
        #: Recommendations answered, by (source, partial).
        self.answers: Counter[tuple[str, bool]] = Counter()
        #: Failures of Redis: connections lost or refused (``away``), error replies and unreadable lists.
        self.redis_errors: Counter[str] = Counter({"away": 0, "reply": 0, "unreadable": 0})
        #: Recent readers that were not recorded because the buffer was full.
        self.notes_dropped = 0
        self._latency = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def observe(self, status: int, seconds: float) -> None:
        """One request was answered."""
        self.requests[status] += 1
        self._latency[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def text(self, breaker_open: bool, generation_known: bool) -> str:
        """All of it in Prometheus' text format."""
        return "".join(f"{line}\n" for line in self._lines(breaker_open, generation_known))

    def _lines(self, breaker_open: bool, generation_known: bool) -> Iterator[str]:
        yield from _counter(
            "requests", "HTTP requests by status", {f'status="{s}"': n for s, n in self.requests.items()}
        )
        answers = {f'source="{s}",partial="{str(p).lower()}"': n for (s, p), n in self.answers.items()}
        yield from _counter("answers", "Recommendations answered, by source", answers)
        errors = {f'kind="{kind}"': n for kind, n in self.redis_errors.items()}
        yield from _counter("redis_errors", "Failures of Redis", errors)
        yield from _counter(
            "notes_dropped", "Asking users not noted because the notes were full", {"": self.notes_dropped}
        )
        yield from _gauge("breaker_open", "1 while Redis is not asked because it failed", breaker_open)
        yield from _gauge("generation_known", "1 once a generation was published", generation_known)
        yield from self._histogram()

    def _histogram(self) -> Iterator[str]:
        name = "millrace_reader_request_seconds"
        yield f"# HELP {name} Time from a request's arrival to its answer"
        yield f"# TYPE {name} histogram"
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._latency, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._seconds:.6f}"
        yield f"{name}_count {total}"


def _counter(name: str, text: str, values: dict[str, int]) -> Iterator[str]:
    name = f"millrace_reader_{name}_total"
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} counter"
    for labels, value in values.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _gauge(name: str, text: str, value: bool) -> Iterator[str]:
    name = f"millrace_reader_{name}"
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    yield f"{name} {int(value)}"
