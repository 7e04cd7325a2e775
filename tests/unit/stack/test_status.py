"""The status of each server, as numbers and as a table."""

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
from stack.installation import build_context, config_on_free_ports
from stack.server import Context, Launch, Server
from stack.status import ServerStatus, format_table, list_process_tree, read_pss, read_statuses
from stack.supervise import ProgramState

ROWS = [
    ServerStatus("kafka", "running", 4711, 19092, 320_000_000, 3_725, True),
    ServerStatus("scheduler", "starting", 4712, 0, 180_400_000, 61, False),
    ServerStatus("redis", "stopped", 0, 16379, 0, 0.0, False),
]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return build_context(config_on_free_ports(tmp_path))


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


def server(name: str, check_health: Callable[[Context], None], *ports: str) -> Server:
    return Server(
        name=name,
        priority=0,
        ports=dict.fromkeys(ports, 0),
        launch=lambda _: Launch(("/bin/true",), Path("/")),
        check_health=check_health,
    )


def unhealthy(_: Context) -> None:
    raise TransientError("not yet")


def running(name: str, pid: int, state: str = "RUNNING") -> ProgramState:
    return ProgramState(name, state, pid, time.time() - 90)


def test_a_server_that_was_never_started(context: Context) -> None:
    """It is stopped, has its port and nothing else, and its health is not checked."""
    checked: list[Context] = []
    (row,) = read_statuses(context, {}, [server("kafka", checked.append, "kafka", "kafka_controller")])
    assert row == ServerStatus("kafka", "stopped", 0, context.config.ports["kafka"], 0, 0.0, False)
    assert checked == []


def test_a_server_that_the_supervisor_gave_up(context: Context) -> None:
    """Without a process it has the supervisor's state, and its health is not checked."""
    (row,) = read_statuses(context, {"kafka": running("kafka", 0, "FATAL")}, [server("kafka", lambda _: None)])
    assert (row.state, row.pid, row.port, row.healthy) == ("fatal", 0, 0, False)


def test_a_running_server_may_be_unhealthy(context: Context) -> None:
    """The state of the process and its health are independent; memory and uptime are those of the process."""
    servers = [server("mute", unhealthy), server("well", lambda _: None)]
    states = {server.name: running(server.name, os.getpid()) for server in servers}
    mute, well = read_statuses(context, states, servers)
    assert (mute.healthy, well.healthy) == (False, True)
    assert (mute.state, well.state) == ("running", "running")
    assert mute.memory > 1_000_000
    assert well.seconds >= 90


def test_servers_are_checked_in_parallel(context: Context) -> None:
    """Several servers that hang cost the time of one: here each is healthy only while the other is being checked."""
    barrier = threading.Barrier(2, timeout=30)

    def check_health(_: Context) -> None:
        barrier.wait()

    servers = [server(name, check_health) for name in ("a", "b")]
    rows = read_statuses(context, {name: running(name, os.getpid()) for name in "ab"}, servers)
    assert [row.name for row in rows if row.healthy] == ["a", "b"]


def test_children_belong_to_a_server(context: Context, parent: int) -> None:
    """The memory of a server is that of its whole process tree."""
    pids = list_process_tree(context, server("reader", unhealthy), parent)
    assert parent in pids
    assert len(pids) == 2


def test_memory_of_an_ended_process_is_zero() -> None:
    """A process that ended in the meantime uses no memory and is not an error."""
    process = subprocess.Popen(["true"])
    process.wait()
    assert read_pss(process.pid) == 0
    assert read_pss(os.getpid()) > 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PSS")
def test_memory_is_the_proportional_set_size(parent: int) -> None:
    """The figure is the kernel's PSS, so that the sum over all servers counts shared pages once."""
    lines = Path(f"/proc/{parent}/smaps_rollup").read_text(encoding="ascii").splitlines()
    (pss,) = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    assert read_pss(parent) == pytest.approx(pss, rel=0.1)


def test_the_table_has_a_line_per_server_and_a_total() -> None:
    """Each line has name, state, ids, memory, uptime and health; a dash stands for a missing value."""
    lines = [line.split() for line in format_table(ROWS).splitlines()]
    assert lines == [
        ["server", "state", "pid", "port", "memory", "up", "healthy"],
        ["kafka", "running", "4711", "19092", "320", "MB", "1h", "02m", "yes"],
        ["scheduler", "starting", "4712", "-", "180", "MB", "1m", "01s", "no"],
        ["redis", "stopped", "-", "16379", "0", "MB", "0s", "no"],
        ["total", "500", "MB"],
    ]


def test_columns_are_aligned() -> None:
    """Each column ends where its title does, whatever the numbers."""
    lines = format_table(ROWS).splitlines()
    assert len({line.rindex("  ") for line in lines[:-1]}) == 1
    assert {line.index(" MB") for line in lines[1:]} == {lines[0].index("memory") + len("memory") - len(" MB")}


def test_the_table_accepts_any_iterable() -> None:
    """The rows are used twice, for the lines and for the total."""
    assert format_table(iter(ROWS)) == format_table(ROWS)
