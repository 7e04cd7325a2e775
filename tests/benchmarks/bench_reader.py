"""The reader against the same server sending a constant body, in one run on one machine.

Runs of both alternate, so that other load on the machine affects both; the results are medians. Then the same load
while Redis hangs. Loopback only, about a minute.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from include.domain.recommendation_list import MAX_ITEMS, RecommendationList, RecommendedItem, pack
from include.settings import RedisSettings
from include.stores.redis import RedisLists
from tests.benchmarks import load
from tests.contract.processes import Process, RedisServer, http_process, reader, redis_server, wait_until

TARGET = 0.55
GENERATION = "bench"
_CONSTANT = (
    *(sys.executable, "-m", "granian", "tests.benchmarks.constant_app:app", "--interface", "asginl", "--http", "1"),
    *("--no-ws", "--loop", "uvloop", "--port", "{port}", "--no-log"),
)


@dataclass(frozen=True)
class Measurement:
    """One run of load on one server, and the server's CPU seconds per request."""

    load: load.LoadResult
    cpu: float


@dataclass(frozen=True)
class Target:
    """A server under load."""

    process: Process
    port: int

    def measure(self, users: int, seconds: float, seed: int) -> Measurement:
        """Put load on the server for ``seconds``."""
        before = self._cpu_seconds()
        result = load.run(self.port, users, seconds, seed)
        return Measurement(result, (self._cpu_seconds() - before) / max(1, result.requests))

    def _cpu_seconds(self) -> float:
        """Returns the CPU seconds used so far by the process and its workers."""
        main = psutil.Process(self.process.popen.pid)
        times = [process.cpu_times() for process in (main, *main.children(recursive=True))]
        return sum(time.user + time.system for time in times)


def make_packed_list(rng: random.Random) -> bytes:
    """Returns a full list with texts of 12 to 34 characters, as in the retail data."""
    items = [
        RecommendedItem(
            f"{rng.randrange(10**5):05d}",
            round(rng.random(), 6),
            "WHITE HANGING HEART T-LIGHT HOLDER"[: rng.randrange(12, 35)],
            "similar_users",
            f"chosen by {rng.randrange(2, 40)} people like you",
        )
        for _ in range(MAX_ITEMS)
    ]
    return pack(RecommendationList(1_764_000_000_000, "similar_users", items))


def publish_lists(server: RedisServer, users: int) -> int:
    """Publish a list for every user. Returns the mean size of a packed list."""
    rng = random.Random(20260)
    lists = RedisLists(RedisSettings(server.url))
    packed = {f"user-{number}": make_packed_list(rng) for number in range(users)}
    lists.publish(GENERATION, packed, dict.fromkeys(packed, 3600))
    lists.publish_popular(GENERATION, make_packed_list(rng), 3600)
    lists.set_current_generation(GENERATION)
    lists.close()
    return sum(map(len, packed.values())) // users


@contextmanager
def start_servers(folder: Path, users: int) -> Iterator[tuple[Target, Target, RedisServer]]:
    """Yield (constant, reader, Redis), all running."""
    with redis_server(folder) as server:
        size = publish_lists(server, users)
        with reader(folder, server.url) as (process, client):
            wait_until(lambda: client.get("/readyz").status_code == 200, "the reader is ready", process)
            body = client.get("/v1/users/user-0/recommendations").content
            print(f"lists: {users:,} of {size:,} bytes; a response: {len(body):,} bytes")
            environment = {"CONSTANT_BYTES": str(len(body))}
            with http_process(_CONSTANT, folder, "constant", **environment) as (constant, port):
                yield Target(constant, port), Target(process, client.base_url.port or 0), server


def print_medians(name: str, runs: Sequence[Measurement]) -> None:
    """Print one line of medians."""
    rate = statistics.median(run.load.per_second for run in runs)
    p50 = statistics.median(run.load.p50 for run in runs) * 1e3
    p99 = statistics.median(run.load.p99 for run in runs) * 1e3
    cpu = statistics.median(run.cpu for run in runs) * 1e6
    failures = sum(run.load.failures for run in runs)
    print(f"{name:22} {rate:9,.0f}/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  CPU {cpu:6.1f} µs  not 2xx: {failures}")


def main() -> int:
    """Run the benchmark. Returns 1 if any response was not 2xx."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    print(
        f"load: {load.generator_name()}, {load.CONNECTIONS} connections; "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as name,
        start_servers(Path(name), options.users) as targets,
    ):
        constant, reader_target, server = targets
        for target in (constant, reader_target):
            target.measure(options.users, 1, 0)  # warm-up
        pairs = [
            (
                constant.measure(options.users, options.seconds, seed),
                reader_target.measure(options.users, options.seconds, seed),
            )
            for seed in range(1, options.rounds + 1)
        ]
        server.process.signal(signal.SIGSTOP)
        hung = [reader_target.measure(options.users, options.seconds, seed) for seed in range(2)]
        server.process.signal(signal.SIGCONT)
    print_medians("constant", [first for first, _ in pairs])
    print_medians("reader", [second for _, second in pairs])
    print_medians("reader, Redis hung", hung)
    ratios = sorted(second.load.per_second / first.load.per_second for first, second in pairs)
    ratio = statistics.median(ratios)
    by_cpu = statistics.median(first.cpu / second.cpu for first, second in pairs)
    print(
        f"reader / constant: {ratio:.2f} by requests ({ratios[0]:.2f}-{ratios[-1]:.2f}), "
        f"{by_cpu:.2f} by CPU time; target {TARGET}"
    )
    return int(any(run.load.failures for runs in [*pairs, hung] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
