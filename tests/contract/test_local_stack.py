"""The local servers as processes: started once, kept running, and stopped without leaving anything behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from redis import Redis

from include.errors import ConfigurationError
from stack import records, supervise
from stack.config import PORT_PREFIX, PROJECT
from stack.installation import build_context, config_on_free_ports
from stack.launch import process_fingerprint
from stack.probe import http_get
from stack.server import Context, Launch, Server, ServerError
from stack.stack import Stack
from stack.start import Starter
from stack.stop import Stopper
from stack.supervise import Supervisor

PATIENCE_S = 60
#: The cheapest servers; the reader needs Redis.
CHEAP = ("redis", "reader")

#: Reports for a while that it is not ready.
LATE = """
import http.server, sys, time
ready = time.monotonic() + 1.5
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() > ready else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


#: ``python -m stack`` in a process that exits with 99 if it looks up a host or connects beyond this machine.
OFFLINE = """
import os, sys

def forbid(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1"):
        os._exit(99)
    if event == "socket.connect" and not isinstance(arguments[1], (str, bytes)) and arguments[1][0] != "127.0.0.1":
        os._exit(99)

sys.addaudithook(forbid)
from stack.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Reported(list[str]):
    """The lines that the stack reported to the user."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that every user may enter, including PostgreSQL's."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-stack-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def reported() -> Reported:
    return Reported()


@pytest.fixture
def stack(home: Path, reported: Reported) -> Iterator[Stack]:
    """A stack for this test only. Nothing runs yet, and everything is stopped at the end."""
    with Stack(config_on_free_ports(home), reported) as stack:
        yield stack


def pid(stack: Stack, name: str) -> int:
    """The recorded process of a server."""
    record = records.read_record(stack.config.run, name)
    assert record is not None
    return record.pid


def running(stack: Stack) -> list[str]:
    """The names of the recorded processes that are running."""
    return [record.name for record in records.read_all(stack.config.run) if record.alive]


def reader_is_healthy(stack: Stack) -> bool:
    try:
        return httpx.get(f"http://{stack.config.address('reader')}/healthz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no success within {PATIENCE_S} s"
        time.sleep(0.1)


def command(stack: Stack, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """``python -m stack`` with the settings of this stack."""
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in stack.config.ports.items()}
    program = ["-c", OFFLINE] if offline else ["-m", "stack"]
    line = [sys.executable, *program, "--home", str(stack.config.home), *arguments]
    return subprocess.run(
        line, cwd=PROJECT, env={**os.environ, **ports}, capture_output=True, text=True, check=False, timeout=120
    )


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        yield


@contextmanager
def stranger_recorded_as(stack: Stack, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """An unrelated process whose id is in a record, together with the start time of another process."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        record = json.loads(records.record_path(stack.config.run, "redis").read_text(encoding="utf-8"))
        reused = {**record, "name": name, "pid": stranger.pid, "pgid": stranger.pid, "sid": stranger.pid}
        records.record_path(stack.config.run, name).write_text(json.dumps(reused), encoding="utf-8")
        yield stranger
    finally:
        stranger.kill()
        stranger.wait()


def supervisor_of(server: int) -> int:
    """The parent of a server's process."""
    return psutil.Process(server).ppid()


def python_server(program: str) -> Server:
    """A Python program as a server. Its argument is the port of Redis, where its health is checked over HTTP."""

    def launch(context: Context) -> Launch:
        return Launch((sys.executable, "-c", program, str(context.config.ports["redis"])), context.config.run)

    def check_health(context: Context) -> None:
        http_get(f"http://{context.config.address('redis')}")

    return Server(name="odd", priority=0, ports={"redis": 0}, launch=launch, check_health=check_health)


@contextmanager
def starting(stack: Stack, reported: Reported, server: Server) -> Iterator[Starter]:
    """A starter with a supervisor that knows this server; everything is stopped at the end."""
    for folder in (stack.config.run, stack.config.logs):
        folder.mkdir(parents=True)
    supervisor = Supervisor(stack.config)
    supervisor.start([server])
    try:
        yield Starter(build_context(stack.config), supervisor, reported)
    finally:
        Stopper(stack.config, supervisor, reported).stop_everything_else()


def test_up_returns_when_servers_are_healthy_and_down_leaves_none(stack: Stack, reported: Reported) -> None:
    """The requested server is healthy, as are those it needs; after down none of their processes runs."""
    stack.up(["reader"])
    assert reader_is_healthy(stack)
    assert {row.name for row in stack.status() if row.healthy} == set(CHEAP)
    members = [pid for record in records.read_all(stack.config.run) for pid in record.members()]
    assert len(members) >= 3
    stack.down()
    assert not any(map(process_fingerprint, members))
    assert not reader_is_healthy(stack)
    assert "2 servers are up" in reported.text


def test_a_second_up_changes_nothing(stack: Stack, reported: Reported) -> None:
    """Running servers stay untouched and are reported as already up."""
    stack.up(CHEAP)
    before = {name: pid(stack, name) for name in (*CHEAP, records.SUPERVISOR)}
    stack.up(CHEAP)
    assert {name: pid(stack, name) for name in before} == before
    assert reported.text.count("was already up") == len(CHEAP)


def test_a_server_is_up_once_it_is_healthy(stack: Stack, reported: Reported) -> None:
    """A running process that listens is not enough: it must report that it is ready."""
    late = python_server(LATE)
    with starting(stack, reported, late) as starter:
        starter.start([late])
        assert httpx.get(f"http://{stack.config.address('redis')}", trust_env=False).is_success
    assert running(stack) == []


def test_a_server_that_never_responds_is_reported_with_its_log(stack: Stack, reported: Reported) -> None:
    """After a timeout, the error says that it does not respond and has the end of its log."""
    mute = replace(
        python_server("import time; print('not today', flush=True); time.sleep(600)"), start_timeout_seconds=2
    )
    with starting(stack, reported, mute) as starter, pytest.raises(ServerError) as error:
        starter.start([mute])
    assert str(error.value).startswith("odd does not respond after 2 s")
    assert f"Last lines of {stack.config.log('odd')}:\n    not today" in str(error.value)


def test_a_later_up_adds_servers(stack: Stack) -> None:
    """Starting another server does not disturb the running ones, even if it fails."""
    stack.up(["redis"])
    first = pid(stack, "redis")
    odd = replace(stack.config, extra_environment={"MILLRACE_READER_PORT": "none"})
    with pytest.raises(ServerError, match="reader keeps exiting"):
        Stack(odd, stack.report).up(["reader"])
    assert set(running(stack)) == {"redis", records.SUPERVISOR}
    stack.up(["reader"])
    assert reader_is_healthy(stack)
    assert pid(stack, "redis") == first


def test_only_one_command_changes_a_home_at_a_time(stack: Stack, reported: Reported) -> None:
    """An up waits for another up, down or reset of its home, and says so."""
    with (stack.config.home / "lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        up = pool.submit(stack.up, ["redis"])
        wait_until(lambda: reported or up.done())
        assert reported.text == "waiting for another up, down or reset of this home"
        assert running(stack) == []
        fcntl.flock(lock, fcntl.LOCK_UN)
        up.result(PATIENCE_S)
    assert set(running(stack)) == {"redis", records.SUPERVISOR}


def test_a_crashed_server_restarts_with_its_data(stack: Stack) -> None:
    """After a kill, Redis restarts by itself and has every acknowledged write."""
    stack.up(["redis"])
    url = stack.environment()["MILLRACE_REDIS_URL"]
    with Redis.from_url(url) as client:
        client.set("key", "value")
    first = pid(stack, "redis")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: pid(stack, "redis") != first and Supervisor(stack.config).states()["redis"].state == "RUNNING")
    wait_until(lambda: {row.name for row in stack.status() if row.healthy} == {"redis"})
    with Redis.from_url(url, decode_responses=True) as client:
        assert client.get("key") == "value"


@pytest.mark.parametrize("then", ["up", "down"])
def test_processes_of_a_killed_supervisor_are_stopped(stack: Stack, reported: Reported, then: str) -> None:
    """The next up starts fresh processes, and the next down leaves none."""
    stack.up(CHEAP)
    left = {name: pid(stack, name) for name in CHEAP}
    os.kill(pid(stack, records.SUPERVISOR), signal.SIGKILL)
    wait_until(lambda: records.SUPERVISOR not in running(stack))
    assert set(running(stack)) == set(CHEAP)
    if then == "up":
        stack.up(CHEAP)
        assert reader_is_healthy(stack)
        assert "processes left by a killed supervisor" in reported.text
    else:
        stack.down()
        assert running(stack) == []
    assert not any(map(process_fingerprint, left.values()))


def test_a_stranger_with_a_recorded_process_id_is_left_alone(stack: Stack) -> None:
    """A process that reuses the id of a recorded server is not stopped."""
    stack.up(["redis"])
    with stranger_recorded_as(stack, "milvus") as stranger:
        stack.down()
        assert stranger.poll() is None
        assert running(stack) == []


def test_a_stranger_with_the_supervisors_process_id_is_left_alone(stack: Stack, reported: Reported) -> None:
    """After a reboot, any process may have that id: up starts a new supervisor and does not touch the stranger."""
    stack.up(["redis"])
    with stranger_recorded_as(stack, records.SUPERVISOR) as stranger:
        old = pid(stack, "redis")
        os.kill(supervisor_of(old), signal.SIGKILL)
        stack.up(["redis"])
        assert stranger.poll() is None
        assert process_fingerprint(old) is None
        stack.down()
        assert stranger.poll() is None
        assert running(stack) == []


def test_down_stops_a_supervisor_that_hangs(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that ignores calls and signals is killed, together with its servers."""
    monkeypatch.setattr(supervise, "_RPC_SECONDS", 1.0)
    stack.up(["redis"])
    members = [pid for record in records.read_all(stack.config.run) for pid in record.members()]
    os.kill(pid(stack, records.SUPERVISOR), signal.SIGSTOP)
    stack.down()
    assert not any(map(process_fingerprint, members))


def test_status_shows_a_server_that_was_given_up(stack: Stack) -> None:
    """A server that cannot restart after a crash is not healthy, and the exit code of status says so."""
    stack.up(["redis"])
    (stack.config.run / "redis.conf").write_text("nonsense\n")
    os.kill(pid(stack, "redis"), signal.SIGKILL)
    wait_until(lambda: Supervisor(stack.config).states()["redis"].state == "FATAL")
    status = command(stack, "status")
    assert status.returncode == 1
    assert re.search(r"^redis +fatal .* no$", status.stdout, re.MULTILINE)
    assert "nonsense" in command(stack, "logs", "redis").stdout


def test_a_taken_port_is_reported_and_nothing_is_left_running(stack: Stack) -> None:
    """The message has the port, its server and the setting to change."""
    with (
        taken(stack.config.ports["reader"]),
        pytest.raises(ConfigurationError, match=f"port {stack.config.ports['reader']} for reader is taken.*") as error,
    ):
        stack.up(CHEAP)
    assert "MILLRACE_PORT_READER" in str(error.value)
    assert running(stack) == []


def test_a_server_that_cannot_start_is_reported_with_its_log(stack: Stack, reported: Reported) -> None:
    """If the heap is too small, the error has the end of the log, and everything that was started is stopped."""
    tiny = Stack(replace(stack.config, heaps={**stack.config.heaps, "mongo": "1m"}), reported)
    with pytest.raises(ServerError, match="mongo") as error:
        tiny.up(["redis", "mongo"])
    assert str(tiny.config.log("mongo")) in str(error.value)
    assert "heap" in str(error.value).lower()
    assert running(stack) == []


def test_changed_settings_of_a_running_server_are_rejected(stack: Stack, reported: Reported) -> None:
    """A changed port of a running server is an error, and the server keeps running."""
    stack.up(["redis"])
    moved = {**stack.config.ports, "redis": stack.config.ports["mongo"]}
    with pytest.raises(ConfigurationError, match="the settings of redis have changed since it started"):
        Stack(replace(stack.config, ports=moved), reported).up(["redis"])
    assert "redis" in running(stack)


def test_an_interrupted_up_leaves_nothing_running(stack: Stack) -> None:
    """Ctrl-C stops everything that was started, and the exit code is 130."""
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in stack.config.ports.items()}
    line = [sys.executable, "-m", "stack", "--home", str(stack.config.home), "up", "--only", "reader,postgres"]
    process = subprocess.Popen(line, cwd=PROJECT, env={**os.environ, **ports}, start_new_session=True)
    wait_until(lambda: "redis" in running(stack))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert running(stack) == []


def test_the_commands_describe_the_running_servers(stack: Stack) -> None:
    """status, env and logs show which servers are healthy, their addresses and their logs; none needs the network."""
    stack.up(CHEAP)
    status = command(stack, "status", offline=True)
    assert status.returncode == 0, status.stdout + status.stderr
    assert all(name in status.stdout for name in CHEAP)
    environment = command(stack, "env").stdout
    assert f"export MILLRACE_READER_URL=http://{stack.config.address('reader')}\n" in environment
    assert "Ready to accept connections" in command(stack, "logs", "redis", offline=True).stdout
    assert command(stack, "logs", "nothing").returncode == 1
    os.kill(pid(stack, records.SUPERVISOR), signal.SIGKILL)
    wait_until(lambda: records.SUPERVISOR not in running(stack))
    assert command(stack, "down", offline=True).returncode == 0
    assert running(stack) == []


def test_reset_deletes_data_and_keeps_downloads(stack: Stack, reported: Reported) -> None:
    """After reset the servers start empty; the jars stay, even inside the home."""
    jar = stack.config.home / "jars" / "some.jar"
    jar.parent.mkdir()
    jar.touch()
    own = Stack(replace(stack.config, jar_cache=jar.parent), reported)
    own.up(["redis"])
    with Redis.from_url(own.environment()["MILLRACE_REDIS_URL"]) as client:
        client.set("key", "value")
    own.reset()
    assert running(own) == []
    assert not (own.config.home / "data").exists()
    assert not own.config.logs.exists()
    assert jar.exists()
    own.up(["redis"])
    with Redis.from_url(own.environment()["MILLRACE_REDIS_URL"]) as client:
        assert client.get("key") is None
