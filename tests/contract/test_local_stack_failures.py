"""What the local stack does when something goes wrong: nothing is lost, left running or killed by mistake."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from redis import Redis

from include.errors import ConfigurationError
from stack import records, supervise
from stack.config import PORT_PREFIX, PROJECT
from stack.installation import build_context
from stack.launch import process_fingerprint
from stack.server import ServerError
from stack.stack import Stack
from stack.start import Starter
from stack.supervise import Supervisor
from tests.contract.local_stack import (
    CHEAP,
    OPEN,
    PATIENCE_S,
    ReportLog,
    find_supervisor,
    list_running,
    occupied_port,
    python_server,
    read_pid,
    reader_is_healthy,
    run_command,
    running_starter,
    unrelated_process_recorded_as,
    wait_until,
)


def test_a_server_that_never_responds_is_reported_with_its_log(stack: Stack, reports: ReportLog) -> None:
    """After a timeout, the message says that it does not respond and includes the end of its log."""
    mute = replace(
        python_server("import time; print('not today', flush=True); time.sleep(600)"), start_timeout_seconds=2
    )
    with running_starter(stack, reports, mute) as starter, pytest.raises(ServerError) as error:
        starter.start([mute])
    assert str(error.value).startswith("odd does not respond after 2 s")
    assert f"Last lines of {stack.config.log('odd')}:\n    not today" in str(error.value)


def test_a_crashed_server_restarts_with_its_data(stack: Stack) -> None:
    """After a kill, Redis restarts by itself and has every acknowledged write."""
    stack.up(["redis"])
    url = stack.environment()["MILLRACE_REDIS_URL"]
    with Redis.from_url(url) as client:
        client.set("key", "value")
    first = read_pid(stack, "redis")
    os.kill(first, signal.SIGKILL)
    supervisor = Supervisor(stack.config)
    wait_until(lambda: read_pid(stack, "redis") != first and supervisor.states()["redis"].state == "RUNNING")
    wait_until(lambda: {row.name for row in stack.status() if row.healthy} == {"redis"})
    with Redis.from_url(url, decode_responses=True) as client:
        assert client.get("key") == "value"


@pytest.mark.parametrize("then", ["up", "down"])
def test_processes_of_a_killed_supervisor_are_stopped(stack: Stack, reports: ReportLog, then: str) -> None:
    """The next up starts fresh processes, and the next down stops them."""
    stack.up(CHEAP)
    left = {name: read_pid(stack, name) for name in CHEAP}
    os.kill(read_pid(stack, records.SUPERVISOR), signal.SIGKILL)
    wait_until(lambda: records.SUPERVISOR not in list_running(stack))
    assert set(list_running(stack)) == set(CHEAP)
    if then == "up":
        stack.up(CHEAP)
        assert reader_is_healthy(stack)
        assert "processes left by a killed supervisor" in reports.text
    else:
        stack.down()
        assert list_running(stack) == []
    assert not any(map(process_fingerprint, left.values()))


def test_an_unrelated_process_is_left_alone(stack: Stack) -> None:
    """A process that reuses the id of a recorded server is not stopped."""
    stack.up(["redis"])
    with unrelated_process_recorded_as(stack, "milvus") as unrelated:
        stack.down()
        assert unrelated.poll() is None
        assert list_running(stack) == []


def test_an_unrelated_process_with_the_supervisors_id_is_left_alone(stack: Stack, reports: ReportLog) -> None:
    """After a reboot, any process may have that id: up starts a new supervisor and does not touch the other process."""
    stack.up(["redis"])
    with unrelated_process_recorded_as(stack, records.SUPERVISOR) as unrelated:
        old = read_pid(stack, "redis")
        os.kill(find_supervisor(old), signal.SIGKILL)
        stack.up(["redis"])
        assert unrelated.poll() is None
        assert process_fingerprint(old) is None
        stack.down()
        assert unrelated.poll() is None
        assert list_running(stack) == []


def test_down_stops_a_supervisor_that_hangs(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that ignores calls and signals is killed, together with its servers."""
    monkeypatch.setattr(supervise, "_RPC_SECONDS", 1.0)
    stack.up(["redis"])
    members = [pid for record in records.read_all(stack.config.run) for pid in record.members()]
    os.kill(read_pid(stack, records.SUPERVISOR), signal.SIGSTOP)
    stack.down()
    assert not any(map(process_fingerprint, members))


def test_status_shows_a_server_that_was_given_up(stack: Stack) -> None:
    """A server that cannot restart after a crash is not healthy, and the exit code of status says so."""
    stack.up(["redis"])
    (stack.config.run / "redis.conf").write_text("nonsense\n")
    os.kill(read_pid(stack, "redis"), signal.SIGKILL)
    wait_until(lambda: Supervisor(stack.config).states()["redis"].state == "FATAL")
    status = run_command(stack, "status")
    assert status.returncode == 1
    assert re.search(r"^redis +fatal .* no$", status.stdout, re.MULTILINE)
    assert "nonsense" in run_command(stack, "logs", "redis").stdout


def test_a_taken_port_is_reported_and_nothing_is_left_running(stack: Stack) -> None:
    """The message includes the port, its server and the setting to change."""
    with (
        occupied_port(stack.config.ports["reader"]),
        pytest.raises(ConfigurationError, match=f"port {stack.config.ports['reader']} for reader is taken.*") as error,
    ):
        stack.up(CHEAP)
    assert "MILLRACE_PORT_READER" in str(error.value)
    assert list_running(stack) == []


def test_a_server_that_cannot_start_is_reported_with_its_log(stack: Stack, reports: ReportLog) -> None:
    """If the heap is too small, the message includes the end of the log, and everything that was started is stopped."""
    tiny = Stack(replace(stack.config, heaps={**stack.config.heaps, "kafka": "1m"}), reports)
    with pytest.raises(ServerError, match="kafka") as error:
        tiny.up(["redis", "kafka"])
    assert str(tiny.config.log("kafka")) in str(error.value)
    assert "heap" in str(error.value).lower()
    assert list_running(stack) == []


def test_a_server_that_other_machines_can_reach_is_rejected(stack: Stack, reports: ReportLog) -> None:
    """The message names the server, its address and the setting that accepts it; with that setting it starts."""
    unguarded = python_server(OPEN)
    port = stack.config.ports["redis"]
    with running_starter(stack, reports, unguarded) as starter:
        with pytest.raises(ServerError, match=rf"odd listens on 0\.0\.0\.0:{port}, .*MILLRACE_ALLOW_OPEN_PORTS"):
            starter.start([unguarded])
        allowed = Stack(replace(stack.config, allow_open_ports=True), reports)
        Starter(build_context(allowed.config), Supervisor(allowed.config), reports).start([unguarded])
    assert list_running(stack) == []


def test_an_interrupted_up_leaves_nothing_running(stack: Stack) -> None:
    """Ctrl-C stops everything that was started, and the exit code is 130."""
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in stack.config.ports.items()}
    line = [sys.executable, "-m", "stack", "--home", str(stack.config.home), "up", "--only", "reader,postgres"]
    process = subprocess.Popen(line, cwd=PROJECT, env={**os.environ, **ports}, start_new_session=True)
    wait_until(lambda: "redis" in list_running(stack))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert list_running(stack) == []
