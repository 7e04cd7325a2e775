"""Closed-loop HTTP load on loopback: ``wrk`` where there is one, else processes of our own.

Our own need more CPU for a request than the servers that they measure: on a small machine they flatten ratios of
requests a second, and ratios of the servers' CPU time are the ones to trust.
"""

from __future__ import annotations

import multiprocessing
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

PROCESSES = 2
CONNECTIONS = 16
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SCRIPT = """
math.randomseed({seed})
request = function()
  return wrk.format("GET", "/v1/users/user-" .. math.random(0, {users} - 1) .. "/recommendations")
end
"""


@dataclass(frozen=True)
class Load:
    """One run: requests answered, requests a second, latencies in seconds, and answers that were no 2xx."""

    requests: int
    per_second: float
    p50: float
    p99: float
    refused: int


def generator() -> str:
    """What makes the load here."""
    return "wrk" if shutil.which("wrk") else f"{PROCESSES} Python processes (no wrk on PATH)"


def run(port: int, users: int, seconds: float, seed: int) -> Load:
    """16 connections that each ask for a random user as soon as they are answered."""
    if shutil.which("wrk"):
        return _wrk(port, users, seconds, seed)
    return _own(port, users, seconds, seed)


def _wrk(port: int, users: int, seconds: float, seed: int) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "random.lua")
        script.write_text(_SCRIPT.format(seed=seed, users=users))
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{round(seconds)}s", "--latency", "-s", str(script)]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, timeout=seconds + 30, check=True
        )
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    return Load(
        requests=int(_found(r"(\d+) requests in", done.stdout)),
        per_second=float(_found(r"Requests/sec:\s+([\d.]+)", done.stdout)),
        p50=_seconds(_found(r"50%\s+([\d.]+[a-z]+)", done.stdout)),
        p99=_seconds(_found(r"99%\s+([\d.]+[a-z]+)", done.stdout)),
        refused=int(refused[1]) if refused else 0,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk's output has no {pattern}:\n{text}")
    return match[1]


def _seconds(text: str) -> float:
    number = text.rstrip("muns")
    return float(number) * _UNITS[text[len(number) :]]


def _own(port: int, users: int, seconds: float, seed: int) -> Load:
    context = multiprocessing.get_context("spawn")
    results: Queue[tuple[list[float], int]] = context.Queue()
    each = CONNECTIONS // PROCESSES
    workers = [
        context.Process(target=_drive, args=(port, users, seconds, seed + index, each, results))
        for index in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    told = [results.get(timeout=seconds + 60) for _ in workers]
    for worker in workers:
        worker.join(10)
    latencies = sorted(latency for latencies, _ in told for latency in latencies)
    return Load(
        requests=len(latencies),
        per_second=len(latencies) / seconds,
        p50=latencies[len(latencies) // 2],
        p99=latencies[len(latencies) * 99 // 100],
        refused=sum(refused for _, refused in told),
    )


def _drive(
    port: int, users: int, seconds: float, seed: int, connections: int, results: Queue[tuple[list[float], int]]
) -> None:
    """One process: each readable connection has its answer, which is small enough to come in one piece or two."""
    chance = random.Random(seed)
    selector = DefaultSelector()
    asked: dict[socket.socket, float] = {}
    partial: dict[socket.socket, bytes] = {}

    def ask(connection: socket.socket) -> None:
        partial[connection] = b""
        asked[connection] = time.perf_counter()
        user = chance.randrange(users)
        connection.sendall(b"GET /v1/users/user-%d/recommendations HTTP/1.1\r\nHost: x\r\n\r\n" % user)

    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, EVENT_READ)
        ask(connection)
    latencies: list[float] = []
    refused = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(1):
            connection = key.fileobj  # type: ignore[assignment]
            partial[connection] += connection.recv(1 << 20)
            if _complete(partial[connection]):
                latencies.append(time.perf_counter() - asked[connection])
                refused += not partial[connection].startswith(b"HTTP/1.1 2")
                ask(connection)
    for connection in asked:
        connection.close()
    results.put((latencies, refused))


def _complete(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    length = re.search(rb"content-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])
