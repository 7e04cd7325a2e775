"""The reader against the same server sending a constant body, in one run on one machine.

Slices of both alternate, so that whatever else the machine does weighs on both; the figures are medians. Then the
same load while Redis hangs. Loopback only, about a minute.
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
class Slice:
    """One slice of load on one server: what came out, and the server's CPU seconds a request."""

    load: load.Load
    cpu: float


@dataclass(frozen=True)
class Target:
    """A server under load."""

    process: Process
    port: int

    def measured(self, users: int, seconds: float, seed: int) -> Slice:
        """One slice."""
        before = self._cpu()
        made = load.run(self.port, users, seconds, seed)
        return Slice(made, (self._cpu() - before) / max(1, made.requests))

    def _cpu(self) -> float:
        """CPU seconds of the process and its workers so far."""
        main = psutil.Process(self.process.popen.pid)
        times = [each.cpu_times() for each in (main, *main.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def packed_list(chance: random.Random) -> bytes:
    """A full list as the retail data has them: texts of 12 to 34 signs."""
    items = [
        RecommendedItem(
            f"{chance.randrange(10**5):05d}",
            round(chance.random(), 6),
            "WHITE HANGING HEART T-LIGHT HOLDER"[: chance.randrange(12, 35)],
            "similar_users",
            f"chosen by {chance.randrange(2, 40)} people like you",
        )
        for _ in range(MAX_ITEMS)
    ]
    return pack(RecommendationList(1_764_000_000_000, "similar_users", items))


def fill(server: RedisServer, users: int) -> int:
    """Publish a list for each user; the mean size of a packed one."""
    chance = random.Random(20260)
    lists = RedisLists(RedisSettings(server.url))
    made = {f"user-{number}": packed_list(chance) for number in range(users)}
    lists.publish(GENERATION, made, dict.fromkeys(made, 3600))
    lists.publish_popular(GENERATION, packed_list(chance), 3600)
    lists.make_current(GENERATION)
    lists.close()
    return sum(map(len, made.values())) // users


@contextmanager
def servers(folder: Path, users: int) -> Iterator[tuple[Target, Target, RedisServer]]:
    """(constant, reader, Redis), all up and warm."""
    with redis_server(folder) as server:
        size = fill(server, users)
        with reader(folder, server.url) as (process, client):
            wait_until(lambda: client.get("/readyz").status_code == 200, "the reader is ready", process)
            answer = client.get("/v1/users/user-0/recommendations").content
            print(f"lists: {users:,} of {size:,} bytes; an answer: {len(answer):,} bytes")
            sized = {"CONSTANT_BYTES": str(len(answer))}
            with http_process(_CONSTANT, folder, "constant", **sized) as (constant, port):
                yield Target(constant, port), Target(process, client.base_url.port or 0), server


def describe(name: str, slices: Sequence[Slice]) -> None:
    """One line of medians."""
    rate = statistics.median(each.load.per_second for each in slices)
    p50 = statistics.median(each.load.p50 for each in slices) * 1e3
    p99 = statistics.median(each.load.p99 for each in slices) * 1e3
    cpu = statistics.median(each.cpu for each in slices) * 1e6
    refused = sum(each.load.refused for each in slices)
    print(f"{name:22} {rate:9,.0f}/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  {cpu:6.1f} CPU-us each  not 2xx: {refused}")


def main() -> int:
    """Measure and print; 1 if an answer was no 2xx."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    print(
        f"load: {load.generator()}, {load.CONNECTIONS} connections; "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name, servers(Path(name), asked.users) as found:
        constant, own, server = found
        for target in (constant, own):
            target.measured(asked.users, 1, 0)  # warm
        pairs = [
            (constant.measured(asked.users, asked.seconds, seed), own.measured(asked.users, asked.seconds, seed))
            for seed in range(1, asked.rounds + 1)
        ]
        server.process.signal(signal.SIGSTOP)
        hung = [own.measured(asked.users, asked.seconds, seed) for seed in range(2)]
        server.process.signal(signal.SIGCONT)
    describe("constant", [first for first, _ in pairs])
    describe("reader", [second for _, second in pairs])
    describe("reader, Redis hung", hung)
    rates = sorted(second.load.per_second / first.load.per_second for first, second in pairs)
    ratio = statistics.median(rates)
    by_cpu = statistics.median(first.cpu / second.cpu for first, second in pairs)
    print(
        f"reader / constant: {ratio:.2f} by requests ({rates[0]:.2f}-{rates[-1]:.2f}), "
        f"{by_cpu:.2f} by CPU time; target {TARGET}"
    )
    return int(any(each.load.refused for pair in [*pairs, hung] for each in pair))


if __name__ == "__main__":
    sys.exit(main())
