"""What is said of each server: in numbers, and as a table for a person."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include.errors import TransientError
from stack.config import LocalConfig
from stack.credentials import load_or_create
from stack.server import Context, Launch, Server
from stack.status import ServerStatus, family, proportional_memory, server_statuses, table
from stack.supervise import ProgramState

ROWS = [
    ServerStatus("kafka", "running", 4711, 19092, 320_000_000, 3_725, True),
    ServerStatus("scheduler", "starting", 4712, 0, 180_400_000, 61, False),
    ServerStatus("redis", "stopped", 0, 16379, 0, 0.0, False),
]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(LocalConfig.with_free_ports(tmp_path), load_or_create(tmp_path))


@pytest.fixture
def parent() -> Iterator[int]:
    """A process with a child."""
    code = "import subprocess; child = subprocess.Popen(['sleep', '300']); print(child.pid, flush=True); child.wait()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process.pid
    os.kill(child, 9)
    process.communicate()


def a_server(name: str, answers: Callable[[Context], None], *ports: str) -> Server:
    return Server(name, ports, launch=lambda _: Launch(("/bin/true",), Path("/")), answers=answers)


def silent(_: Context) -> None:
    raise TransientError("not yet")


def running(name: str, pid: int, state: str = "RUNNING") -> ProgramState:
    return ProgramState(name, state, pid, time.time() - 90, "")


def test_a_server_that_was_never_started(context: Context) -> None:
    """It is stopped, has its port and nothing else, and is not asked."""
    asked: list[Context] = []
    (row,) = server_statuses(context, {}, [a_server("kafka", asked.append, "kafka", "kafka_controller")])
    assert row == ServerStatus("kafka", "stopped", 0, context.config.ports["kafka"], 0, 0.0, False)
    assert asked == []


def test_a_server_that_the_supervisor_gave_up(context: Context) -> None:
    """Without a process it has the supervisor's word, and is not asked."""
    (row,) = server_statuses(context, {"kafka": running("kafka", 0, "FATAL")}, [a_server("kafka", lambda _: None)])
    assert (row.state, row.pid, row.port, row.answers) == ("fatal", 0, 0, False)


def test_a_server_that_runs_need_not_answer(context: Context) -> None:
    """The process is one thing, its answer another; memory and time are those of the process."""
    servers = [a_server("mute", silent), a_server("well", lambda _: None)]
    states = {server.name: running(server.name, os.getpid()) for server in servers}
    mute, well = server_statuses(context, states, servers)
    assert (mute.answers, well.answers) == (False, True)
    assert (mute.state, well.state) == ("running", "running")
    assert mute.memory > 1_000_000
    assert well.seconds >= 90


def test_servers_are_asked_side_by_side(context: Context) -> None:
    """Several that hang cost the time of one: here each answers only while the other is being asked."""
    together = threading.Barrier(2, timeout=30)

    def answers(_: Context) -> None:
        together.wait()

    servers = [a_server(name, answers) for name in ("a", "b")]
    rows = server_statuses(context, {name: running(name, os.getpid()) for name in "ab"}, servers)
    assert [row.name for row in rows if row.answers] == ["a", "b"]


def test_children_are_of_the_family(context: Context, parent: int) -> None:
    """A server's memory is that of all its processes."""
    found = family(context, a_server("reader", silent), parent)
    assert parent in found
    assert len(found) == 2


def test_memory_that_cannot_be_read_is_none() -> None:
    """A process that ended meanwhile takes no memory and is no error."""
    process = subprocess.Popen(["true"])
    process.wait()
    assert proportional_memory(process.pid) == 0
    assert proportional_memory(os.getpid()) > 1_000_000


def test_the_table_has_a_line_a_server_and_a_sum() -> None:
    """Names, states, ports, memory, time and whether it answers; what there is none of is a dash."""
    lines = [line.split() for line in table(ROWS).splitlines()]
    assert lines == [
        ["server", "state", "pid", "port", "memory", "up", "answers"],
        ["kafka", "running", "4711", "19092", "320", "MB", "1h", "02m", "yes"],
        ["scheduler", "starting", "4712", "-", "180", "MB", "1m", "01s", "no"],
        ["redis", "stopped", "-", "16379", "0", "MB", "0s", "no"],
        ["total", "500", "MB"],
    ]


def test_columns_are_straight() -> None:
    """Whatever the numbers, each column ends where its title does."""
    lines = table(ROWS).splitlines()
    assert len({line.rindex("  ") for line in lines[:-1]}) == 1
    assert {line.index(" MB") for line in lines[1:]} == {lines[0].index("memory") + len("memory") - len(" MB")}


def test_a_table_of_any_iterable() -> None:
    """It is gone through twice, for lines and for the sum."""
    assert table(iter(ROWS)) == table(ROWS)
