"""The local servers as processes: started once, kept alive, and ended without a trace."""

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
import pytest
from redis import Redis

from include.errors import ConfigurationError
from stack import records, supervise
from stack.config import PORT_PREFIX, PROJECT, LocalConfig
from stack.credentials import load_or_create
from stack.launch import session_members, start_mark
from stack.probe import http_get
from stack.server import Context, Launch, Server, ServerError
from stack.stack import Stack
from stack.start import Starter
from stack.stop import Stopper
from stack.supervise import Supervisor

PATIENCE_S = 60
#: The cheapest servers: one that needs another.
CHEAP = ("redis", "reader")

#: Says for a while that it is not ready.
LATE = """
import http.server, sys, time
ready = time.monotonic() + 1.5
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() > ready else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Said(list[str]):
    """What the stack told a person."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that everybody may enter, as PostgreSQL's user has to."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-stack-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def stack(home: Path, said: Said) -> Iterator[Stack]:
    """A stack of this test's own; nothing runs yet, and at the end nothing does."""
    with Stack(LocalConfig.with_free_ports(home), said) as made:
        yield made


def pid(stack: Stack, name: str) -> int:
    record = records.read(stack.config.run, name)
    assert record is not None
    return record.pid


def running(stack: Stack) -> list[str]:
    """The recorded processes that run."""
    return [record.name for record in records.read_all(stack.config.run) if record.alive]


def reader_is_healthy(stack: Stack) -> bool:
    try:
        return httpx.get(f"http://{stack.config.address('reader')}/healthz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
        time.sleep(0.1)


def command(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m stack`` with the settings of this stack."""
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in stack.config.ports.items()}
    line = [sys.executable, "-m", "stack", "--home", str(stack.config.home), *arguments]
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
    """A process of nobody's whose number stands in a record, beside the start time of another one."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        record = json.loads(records.path(stack.config.run, "redis").read_text(encoding="utf-8"))
        reused = {**record, "name": name, "pid": stranger.pid, "pgid": stranger.pid, "sid": stranger.pid}
        records.path(stack.config.run, name).write_text(json.dumps(reused), encoding="utf-8")
        yield stranger
    finally:
        stranger.kill()
        stranger.wait()


def supervisor_of(server: int) -> int:
    """The parent of a server's process."""
    return session_members(os.getsid(server))[server]


def a_server(program: str) -> Server:
    """A Python program as a server that is asked over HTTP at the port of Redis, which is its argument."""

    def launch(context: Context) -> Launch:
        return Launch((sys.executable, "-c", program, str(context.config.ports["redis"])), context.config.run)

    def answers(context: Context) -> None:
        http_get(f"http://{context.config.address('redis')}")

    return Server("odd", ("redis",), launch, answers)


@contextmanager
def starting(stack: Stack, said: Said, server: Server) -> Iterator[Starter]:
    """What starts servers under a supervisor that knows this one; both are ended."""
    for folder in (stack.config.run, stack.config.logs):
        folder.mkdir(parents=True)
    supervisor = Supervisor(stack.config)
    supervisor.start([server])
    try:
        yield Starter(Context(stack.config, load_or_create(stack.config.home)), supervisor, said)
    finally:
        Stopper(stack.config, supervisor, said).end_all()


def test_up_returns_when_servers_answer_and_down_leaves_none(stack: Stack, said: Said) -> None:
    """What was asked for answers, with what it needs; after down no process of it runs and its ports are free."""
    stack.up(["reader"])
    assert reader_is_healthy(stack)
    assert {row.name for row in stack.status() if row.answers} == set(CHEAP)
    members = [pid for record in records.read_all(stack.config.run) for pid in record.members()]
    assert len(members) >= 3
    stack.down()
    assert not any(map(start_mark, members))
    assert not reader_is_healthy(stack)
    assert "2 servers answer" in said.text


def test_a_second_up_changes_nothing(stack: Stack, said: Said) -> None:
    """Servers that run are left as they are, and said to be up already."""
    stack.up(CHEAP)
    before = {name: pid(stack, name) for name in (*CHEAP, records.SUPERVISOR)}
    stack.up(CHEAP)
    assert {name: pid(stack, name) for name in before} == before
    assert said.text.count("was up already") == len(CHEAP)


def test_a_server_is_up_once_it_answers(stack: Stack, said: Said) -> None:
    """A process that runs and listens is not enough: one that still says no is waited for."""
    late = a_server(LATE)
    with starting(stack, said, late) as starter:
        starter.start([late])
        assert httpx.get(f"http://{stack.config.address('redis')}", trust_env=False).is_success
    assert running(stack) == []


def test_a_server_that_never_answers_is_named_with_its_log(stack: Stack, said: Said) -> None:
    """After its time the error says that it does not answer, and how its log ends."""
    mute = replace(a_server("import time; print('not today', flush=True); time.sleep(600)"), start_seconds=2)
    with starting(stack, said, mute) as starter, pytest.raises(ServerError) as error:
        starter.start([mute])
    assert str(error.value).startswith("odd does not answer after 2 s")
    assert f"Its log is {stack.config.log('odd')}; it ends:\n    not today" in str(error.value)


def test_a_later_up_adds_to_what_runs(stack: Stack) -> None:
    """Who asks for one more server does not disturb the first; one that fails does not either."""
    stack.up(["redis"])
    first = pid(stack, "redis")
    odd = replace(stack.config, extra_environment={"MILLRACE_READER_PORT": "none"})
    with pytest.raises(ServerError, match="reader ends again and again"):
        Stack(odd, stack.say).up(["reader"])
    assert set(running(stack)) == {"redis", records.SUPERVISOR}
    stack.up(["reader"])
    assert reader_is_healthy(stack)
    assert pid(stack, "redis") == first


def test_only_one_works_on_a_home(stack: Stack, said: Said) -> None:
    """An up that finds another up, down or reset of its home at work says so, and goes on after it."""
    with (stack.config.home / "lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        up = pool.submit(stack.up, ["redis"])
        wait_until(lambda: said or up.done())
        assert said.text == "waiting for another up, down or reset of this home"
        assert running(stack) == []
        fcntl.flock(lock, fcntl.LOCK_UN)
        up.result(PATIENCE_S)
    assert set(running(stack)) == {"redis", records.SUPERVISOR}


def test_a_server_that_crashes_is_started_again_with_its_data(stack: Stack) -> None:
    """Killed, Redis comes back by itself, and what it had acknowledged is still there."""
    stack.up(["redis"])
    url = stack.environment()["MILLRACE_REDIS_URL"]
    with Redis.from_url(url) as client:
        client.set("kept", "yes")
    first = pid(stack, "redis")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: pid(stack, "redis") != first and Supervisor(stack.config).states()["redis"].state == "RUNNING")
    wait_until(lambda: {row.name for row in stack.status() if row.answers} == {"redis"})
    with Redis.from_url(url, decode_responses=True) as client:
        assert client.get("kept") == "yes"


@pytest.mark.parametrize("then", ["up", "down"])
def test_what_a_killed_supervisor_left_is_ended(stack: Stack, said: Said, then: str) -> None:
    """The next up begins with none of the old processes, the next down leaves none."""
    stack.up(CHEAP)
    left = {name: pid(stack, name) for name in CHEAP}
    os.kill(pid(stack, records.SUPERVISOR), signal.SIGKILL)
    wait_until(lambda: records.SUPERVISOR not in running(stack))
    assert set(running(stack)) == set(CHEAP)
    if then == "up":
        stack.up(CHEAP)
        assert reader_is_healthy(stack)
        assert "killed supervisor" in said.text
    else:
        stack.down()
        assert running(stack) == []
    assert not any(map(start_mark, left.values()))


def test_a_stranger_with_a_recorded_number_is_left_alone(stack: Stack) -> None:
    """A process that got a recorded server's number since is not the one that was written down, and lives on."""
    stack.up(["redis"])
    with stranger_recorded_as(stack, "milvus") as stranger:
        stack.down()
        assert stranger.poll() is None
        assert running(stack) == []


def test_a_supervisor_of_before_a_restart_is_no_supervisor(stack: Stack, said: Said) -> None:
    """Its number may be anybody's by now: up starts another one and does not touch the stranger."""
    stack.up(["redis"])
    with stranger_recorded_as(stack, records.SUPERVISOR) as stranger:
        old = pid(stack, "redis")
        os.kill(supervisor_of(old), signal.SIGKILL)
        stack.up(["redis"])
        assert stranger.poll() is None
        assert start_mark(old) is None
        stack.down()
        assert stranger.poll() is None
        assert running(stack) == []


def test_down_ends_a_supervisor_that_hangs(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers nobody and heeds no signal: it is killed, with the servers that it should have ended."""
    monkeypatch.setattr(supervise, "_RPC_SECONDS", 1.0)
    stack.up(["redis"])
    members = [pid for record in records.read_all(stack.config.run) for pid in record.members()]
    os.kill(pid(stack, records.SUPERVISOR), signal.SIGSTOP)
    stack.down()
    assert not any(map(start_mark, members))


def test_a_server_that_was_given_up_is_shown(stack: Stack) -> None:
    """One that cannot be started again after a crash is no longer up, and status says so with its exit code."""
    stack.up(["redis"])
    (stack.config.run / "redis.conf").write_text("nonsense\n")
    os.kill(pid(stack, "redis"), signal.SIGKILL)
    wait_until(lambda: Supervisor(stack.config).states()["redis"].state == "FATAL")
    status = command(stack, "status")
    assert status.returncode == 1
    assert re.search(r"^redis +fatal .* no$", status.stdout, re.MULTILINE)
    assert "nonsense" in command(stack, "logs", "redis").stdout


def test_a_taken_port_is_named_and_nothing_is_left_running(stack: Stack) -> None:
    """The message says which port, whose, and which setting to change."""
    with (
        taken(stack.config.ports["reader"]),
        pytest.raises(ConfigurationError, match=f"port {stack.config.ports['reader']} for reader is taken.*") as error,
    ):
        stack.up(CHEAP)
    assert "MILLRACE_PORT_READER" in str(error.value)
    assert running(stack) == []


def test_a_server_that_cannot_start_is_named_with_its_log(stack: Stack, said: Said) -> None:
    """A heap that no JVM can live in: the error has the log's last lines, and what was started is ended."""
    tiny = Stack(replace(stack.config, heaps={**stack.config.heaps, "mongo": "1m"}), said)
    with pytest.raises(ServerError, match="mongo") as error:
        tiny.up(["redis", "mongo"])
    assert str(tiny.config.log("mongo")) in str(error.value)
    assert "heap" in str(error.value).lower()
    assert running(stack) == []


def test_changed_settings_of_a_running_server_are_refused(stack: Stack, said: Said) -> None:
    """A port that changes under a running server is said, and the server goes on."""
    stack.up(["redis"])
    moved = {**stack.config.ports, "redis": stack.config.ports["mongo"]}
    with pytest.raises(ConfigurationError, match="redis runs with other settings"):
        Stack(replace(stack.config, ports=moved), said).up(["redis"])
    assert "redis" in running(stack)


def test_an_up_that_is_interrupted_leaves_nothing(stack: Stack) -> None:
    """Ctrl-C while servers start ends what was started; the exit code says that it was interrupted."""
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in stack.config.ports.items()}
    line = [sys.executable, "-m", "stack", "--home", str(stack.config.home), "up", "--only", "reader,postgres"]
    process = subprocess.Popen(line, cwd=PROJECT, env={**os.environ, **ports}, start_new_session=True)
    wait_until(lambda: "redis" in running(stack))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert running(stack) == []


def test_the_commands_show_what_runs(stack: Stack) -> None:
    """status, env and logs say which servers answer, where they are, and what they logged."""
    stack.up(CHEAP)
    status = command(stack, "status")
    assert status.returncode == 0, status.stdout
    assert all(name in status.stdout for name in CHEAP)
    environment = command(stack, "env").stdout
    assert f"export MILLRACE_READER_URL=http://{stack.config.address('reader')}\n" in environment
    assert "Ready to accept connections" in command(stack, "logs", "redis").stdout
    assert command(stack, "logs", "nothing").returncode == 1
    os.kill(pid(stack, records.SUPERVISOR), signal.SIGKILL)
    wait_until(lambda: records.SUPERVISOR not in running(stack))
    assert command(stack, "down").returncode == 0
    assert running(stack) == []


def test_reset_deletes_data_and_keeps_downloads(stack: Stack, said: Said) -> None:
    """After reset the servers begin empty; the jars stay where they are, also within the home."""
    jar = stack.config.home / "jars" / "some.jar"
    jar.parent.mkdir()
    jar.touch()
    own = Stack(replace(stack.config, jar_cache=jar.parent), said)
    own.up(["redis"])
    with Redis.from_url(own.environment()["MILLRACE_REDIS_URL"]) as client:
        client.set("gone", "soon")
    own.reset()
    assert running(own) == []
    assert not (own.config.home / "data").exists()
    assert not own.config.logs.exists()
    assert jar.exists()
    own.up(["redis"])
    with Redis.from_url(own.environment()["MILLRACE_REDIS_URL"]) as client:
        assert client.get("gone") is None
