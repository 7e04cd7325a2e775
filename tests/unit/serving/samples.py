"""Reading metrics in tests."""

from __future__ import annotations

from include.serving.metrics import Metrics


def parse_samples(text: str) -> dict[str, float]:
    """Parse the Prometheus text format into samples by name and labels."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    samples = {name: float(value) for name, _, value in lines}
    assert len(samples) == len(lines), "a sample occurs twice"
    return samples


def get_samples(metrics: Metrics) -> dict[str, float]:
    """Render the metrics and return each sample by its name and labels."""
    return parse_samples(metrics.render().decode())
