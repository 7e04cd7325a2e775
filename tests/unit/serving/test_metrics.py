"""What Prometheus reads."""

from __future__ import annotations

import pytest

from include.serving.metrics import BUCKETS, Metrics

NAME = "millrace_reader_request_seconds"


def values(metrics: Metrics, breaker_open: bool = False, generation_known: bool = False) -> dict[str, float]:
    """Every sample by its name and labels."""
    lines = metrics.text(breaker_open, generation_known).splitlines()
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    assert len({name for name, _, _ in samples}) == len(samples)
    return {name: float(value) for name, _, value in samples}


def test_a_request_is_counted_in_every_bucket_above_it() -> None:
    """Buckets are cumulative, a bound belongs to its own bucket, and the last one has all."""
    metrics = Metrics()
    for seconds in (0.0001, BUCKETS[0], 0.02, 7.0):
        metrics.observe(200, seconds)
    found = values(metrics)
    buckets = [found[f'{NAME}_bucket{{le="{bound}"}}'] for bound in (*BUCKETS, "+Inf")]
    assert buckets == [2] * 5 + [3] * 7 + [4]
    assert found[f"{NAME}_count"] == 4
    assert found[f"{NAME}_sum"] == pytest.approx(7.0206)


def test_what_happened_is_told_by_label() -> None:
    """Requests by status, answers by source and completeness, failures by kind, each from zero on."""
    metrics = Metrics()
    assert values(metrics)['millrace_reader_redis_errors_total{kind="away"}'] == 0
    metrics.observe(503, 0.1)
    metrics.answers["popular", True] += 2
    metrics.redis_errors["away"] += 1
    metrics.notes_dropped += 5
    found = values(metrics)
    assert found['millrace_reader_requests_total{status="503"}'] == 1
    assert found['millrace_reader_answers_total{source="popular",partial="true"}'] == 2
    assert found['millrace_reader_redis_errors_total{kind="away"}'] == 1
    assert found["millrace_reader_notes_dropped_total"] == 5


@pytest.mark.parametrize("state", [True, False])
def test_the_state_of_redis_is_a_gauge(state: bool) -> None:
    """1 or 0, for the breaker and for the generation."""
    found = values(Metrics(), breaker_open=state, generation_known=not state)
    assert found["millrace_reader_breaker_open"] == state
    assert found["millrace_reader_generation_known"] == (not state)


def test_every_metric_is_described_once_before_its_samples() -> None:
    """Prometheus' text format: HELP and TYPE stand before the samples of their metric, and every line ends."""
    metrics = Metrics()
    metrics.observe(200, 0.1)
    metrics.answers["popular", False] += 1
    text = metrics.text(False, True)
    assert text.endswith("\n")
    typed: list[str] = []
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            typed.append(line.split()[2])
        elif not line.startswith("#"):
            assert line.startswith(typed[-1])
    assert len(set(typed)) == len(typed) == 7
