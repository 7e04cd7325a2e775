"""The metrics that Prometheus scrapes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from include.serving.metrics import BUCKETS, Metrics
from include.serving.shared_metrics import DIRECTORY_VARIABLE, share_metrics
from tests.unit.serving.samples import get_samples, parse_samples

PROJECT = Path(__file__).parents[3]
LATENCY = "millrace_reader_request_seconds"

#: A worker that is forked, reports, and exits; then its parent reports and renders the totals.
_TWO_WORKERS = """
import os
from include.serving.metrics import Metrics

def report() -> Metrics:
    metrics = Metrics()
    metrics.observe_request(200, 0.3)
    metrics.count_answer("popular", True)
    metrics.count_dropped_readers(2)
    return metrics

if (child := os.fork()) == 0:
    metrics = report()
    metrics.set_breaker_open(True)
    print(metrics.render().decode(), end="", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
metrics = report()
metrics.set_breaker_open(False)
metrics.set_generation_known(True)
print("---")
print(metrics.render().decode(), end="")
"""


def test_names_types_and_labels_are_stable() -> None:
    """Dashboards and alerts rely on these names, types and label sets, and nothing else is exported."""
    metrics = Metrics()
    metrics.observe_request(200, 0.1)
    metrics.count_answer("popular", False)
    families = list(text_string_to_metric_families(metrics.render().decode()))
    assert {(family.name, family.type) for family in families} == {
        ("millrace_reader_requests", "counter"),
        ("millrace_reader_answers", "counter"),
        ("millrace_reader_redis_errors", "counter"),
        ("millrace_reader_notes_dropped", "counter"),
        ("millrace_reader_breaker_open", "gauge"),
        ("millrace_reader_generation_known", "gauge"),
        (LATENCY, "histogram"),
    }
    assert {(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples} == {
        ("millrace_reader_requests_total", ("status", "200")),
        ("millrace_reader_answers_total", ("partial", "false"), ("source", "popular")),
        *(("millrace_reader_redis_errors_total", ("kind", kind)) for kind in ("away", "reply", "unreadable")),
        ("millrace_reader_notes_dropped_total",),
        ("millrace_reader_breaker_open",),
        ("millrace_reader_generation_known",),
        *((f"{LATENCY}_bucket", ("le", str(bound))) for bound in BUCKETS),
        (f"{LATENCY}_bucket", ("le", "+Inf")),
        (f"{LATENCY}_sum",),
        (f"{LATENCY}_count",),
    }


def test_buckets_are_cumulative() -> None:
    """A duration equal to a bound is in that bucket, and the last bucket has all requests."""
    metrics = Metrics()
    for seconds in (0.0001, BUCKETS[0], 0.02, 7.0):
        metrics.observe_request(200, seconds)
    samples = get_samples(metrics)
    buckets = [samples[f'{LATENCY}_bucket{{le="{bound}"}}'] for bound in (*BUCKETS, "+Inf")]
    assert buckets == [2] * 5 + [3] * 7 + [4]
    assert samples[f"{LATENCY}_count"] == 4
    assert samples[f"{LATENCY}_sum"] == pytest.approx(7.0206)


def test_events_are_counted_by_label() -> None:
    """Requests are counted by status, answers by source and completeness, and errors by kind, starting at zero."""
    metrics = Metrics()
    assert get_samples(metrics)['millrace_reader_redis_errors_total{kind="away"}'] == 0
    metrics.observe_request(503, 0.1)
    for _ in range(2):
        metrics.count_answer("popular", True)
    metrics.count_redis_error("away")
    metrics.count_dropped_readers(5)
    samples = get_samples(metrics)
    assert samples['millrace_reader_requests_total{status="503"}'] == 1
    assert samples['millrace_reader_answers_total{partial="true",source="popular"}'] == 2
    assert samples['millrace_reader_redis_errors_total{kind="away"}'] == 1
    assert samples["millrace_reader_notes_dropped_total"] == 5


@pytest.mark.parametrize("state", [True, False])
def test_gauges_are_one_or_zero(state: bool) -> None:
    """The states of the breaker and of the generation are gauges that can go up and down."""
    metrics = Metrics()
    for value in (not state, state):
        metrics.set_breaker_open(value)
        metrics.set_generation_known(value)
    samples = get_samples(metrics)
    assert samples["millrace_reader_breaker_open"] == state
    assert samples["millrace_reader_generation_known"] == state


def test_workers_share_their_metrics(tmp_path: Path) -> None:
    """Any worker reports the totals; the counters of a worker that exited stay, and its gauges are removed."""
    environment = {**os.environ, DIRECTORY_VARIABLE: str(tmp_path), "PYTHONPATH": str(PROJECT)}
    command = (sys.executable, "-c", _TWO_WORKERS)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    alone, together = map(parse_samples, result.stdout.split("---\n"))
    assert alone.keys() == together.keys()
    for samples, workers in (alone, 1), (together, 2):
        assert samples['millrace_reader_requests_total{status="200"}'] == workers
        assert samples['millrace_reader_answers_total{partial="true",source="popular"}'] == workers
        assert samples["millrace_reader_notes_dropped_total"] == 2 * workers
        assert samples[f"{LATENCY}_count"] == samples[f'{LATENCY}_bucket{{le="0.5"}}'] == workers
    assert (alone["millrace_reader_breaker_open"], together["millrace_reader_breaker_open"]) == (1, 0)
    assert (alone["millrace_reader_generation_known"], together["millrace_reader_generation_known"]) == (0, 1)


def test_the_shared_directory_is_private_and_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers share a directory that only this user can access, and that is removed at exit."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, "/another/program")
    with share_metrics(2):
        directory = Path(os.environ[DIRECTORY_VARIABLE])
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert not any(directory.iterdir())
    assert not directory.exists()
    assert DIRECTORY_VARIABLE not in os.environ


def test_a_single_worker_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker there is no directory, not even one that was inherited."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, "/another/program")
    with share_metrics(1):
        assert DIRECTORY_VARIABLE not in os.environ
