"""The reader's worker processes: what they share, with a real Redis."""

from __future__ import annotations

import stat
from pathlib import Path

from prometheus_client.multiprocess import MultiProcessCollector

from tests.contract.processes import list_path, publish, reader, redis_server, shut_down
from tests.unit.serving.lists import make_list
from tests.unit.serving.samples import parse_samples


def test_any_worker_reports_the_totals(tmp_path: Path) -> None:
    """With two workers, every scrape counts all requests; their shared directory is private and temporary."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    settings = {"MILLRACE_READER_WORKERS": "2", "TMPDIR": str(temporary)}
    with redis_server(tmp_path) as server:
        publish(server, {"u": make_list("u")})
        with reader(tmp_path, server.url, **settings) as (process, client):
            (directory,) = temporary.iterdir()
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            sent = 0
            while sent < 60 or min(count_answers_by_worker(directory)) == 0:
                user = "u" if sent % 3 else "nobody"
                # Each connection may be accepted by either worker.
                assert client.get(list_path(user), headers={"connection": "close"}).status_code == 200
                sent += 1
                assert sent < 2_000, process.read_log()
            assert sum(count_answers_by_worker(directory)) == sent
            for _ in range(12):
                samples = parse_samples(client.get("/metrics", headers={"connection": "close"}).text)
                answers = [samples[name] for name in samples if name.startswith("millrace_reader_answers_total")]
                assert sum(answers) == sent
                assert samples["millrace_reader_generation_known"] == 1
            shut_down(process)
    assert not any(temporary.iterdir())


def count_answers_by_worker(directory: Path) -> list[float]:
    """Returns the number of lists that each of two workers has served; zero for one that is not running yet."""
    counts = []
    for file in directory.glob("counter_*.db"):
        metrics = MultiProcessCollector.merge([str(file)])
        samples = [sample for metric in metrics for sample in metric.samples]
        counts.append(sum(sample.value for sample in samples if sample.name == "millrace_reader_answers_total"))
    return [*counts, 0.0][:2]


def test_a_single_worker_writes_no_files(tmp_path: Path) -> None:
    """With one worker the metrics need no shared directory."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with (
        redis_server(tmp_path) as server,
        reader(tmp_path, server.url, TMPDIR=str(temporary)) as (_, client),
    ):
        assert client.get("/metrics").status_code == 200
        assert not any(temporary.iterdir())
