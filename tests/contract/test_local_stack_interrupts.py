"""``up`` that is interrupted, by Ctrl-C or by another command: nothing is left running, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg2
import pytest
from redis import Redis

from stack import records
from stack.config import PORT_PREFIX, PROJECT
from stack.installation import load_secrets
from stack.servers import postgres
from stack.stack import Stack
from tests.contract.local_stack import PATIENCE_S, list_running, read_pid, run_command, wait_until

CHEAP = ("redis", "postgres")
INTERRUPTED = "interrupted: everything that this command started has been stopped\n"
NOTHING = "interrupted: nothing was started or stopped\n"
MOMENTS = 10
SEED = 7


def start_up(stack: Stack) -> subprocess.Popen[str]:
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in stack.config.ports.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "stack", "--home", str(stack.config.home), "up", "--only", ",".join(CHEAP)],
        cwd=PROJECT,
        env={**os.environ, **ports},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def list_processes_of(stack: Stack) -> list[str]:
    """Every process of this machine that has the home in its arguments, recorded or not."""
    home = str(stack.config.home)
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if home in line]


def handles_signals(pid: int) -> bool:
    """Whether the process has replaced the default of SIGTERM, as the command does first of all."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (caught,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def write(stack: Stack, value: int) -> None:
    """Write a value to both stores, which acknowledge it."""
    with Redis.from_url(stack.environment()["MILLRACE_REDIS_URL"]) as client:
        client.set(f"key-{value}", value)
    with psycopg2.connect(postgres.dsn(stack.config, load_secrets(stack.config), "warehouse")) as connection:
        connection.cursor().execute("CREATE TABLE IF NOT EXISTS t (v INT)")
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (value,))
    connection.close()


def read(stack: Stack) -> set[int]:
    """The values that both stores have."""
    with Redis.from_url(stack.environment()["MILLRACE_REDIS_URL"], decode_responses=True) as client:
        in_redis = {int(key.removeprefix("key-")) for key in client.keys("key-*")}
    with psycopg2.connect(postgres.dsn(stack.config, load_secrets(stack.config), "warehouse")) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT v FROM t")
        in_postgres = {row[0] for row in cursor.fetchall()}
    connection.close()
    assert in_redis == in_postgres
    return in_redis


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows which signals a process handles")
def test_up_can_be_interrupted_at_any_moment(stack: Stack) -> None:
    """At each of ten random moments it stops what it started and says so; then up succeeds, and no data is lost."""
    began = time.monotonic()
    stack.up(CHEAP)
    write(stack, 1)
    stack.down()
    duration = time.monotonic() - began
    moments = random.Random(SEED)
    for _ in range(MOMENTS):
        up = start_up(stack)
        wait_until(lambda pid=up.pid: handles_signals(pid))  # type: ignore[misc]
        time.sleep(moments.uniform(0, duration / 2))
        up.send_signal(signal.SIGINT)
        output, errors = up.communicate(timeout=PATIENCE_S)
        if up.returncode == 0:
            # It was already done.
            assert "2 servers are up" in output
            stack.down()
        else:
            assert (up.returncode, errors) in ((130, INTERRUPTED), (130, NOTHING))
        assert records.find_processes(stack.config.run) == set()
        assert list_processes_of(stack) == []
    stack.up(CHEAP)
    assert read(stack) == {1}


@pytest.mark.parametrize("arguments", [("down",), ("reset", "--yes")])
def test_a_running_up_is_interrupted_by_another_command(stack: Stack, arguments: tuple[str, ...]) -> None:
    """down and reset do not wait for it: both commands say what happened, and nothing is left."""
    up = start_up(stack)
    wait_until(lambda: "redis" in list_running(stack))
    other = run_command(stack, *arguments)
    output, errors = up.communicate(timeout=PATIENCE_S)
    assert (up.returncode, errors) == (130, INTERRUPTED), output
    assert (other.returncode, other.stderr) == (0, "")
    assert f"interrupting another up of this home (process {up.pid})" in other.stdout
    assert list_processes_of(stack) == []


def test_two_ups_at_once(stack: Stack) -> None:
    """The second waits for the first, says so, and finds everything up; there is one supervisor."""
    first = start_up(stack)
    wait_until(lambda: records.SUPERVISOR in list_running(stack))
    second = start_up(stack)
    outputs = [up.communicate(timeout=PATIENCE_S)[0] for up in (first, second)]
    assert [up.returncode for up in (first, second)] == [0, 0]
    assert f"waiting for another up of this home (process {first.pid})" in outputs[1]
    assert outputs[1].count("was already up") == len(CHEAP)
    assert len([line for line in list_processes_of(stack) if "supervisor.supervisord" in line]) == 1


def test_a_killed_supervisor(stack: Stack) -> None:
    """status says what is left and what to do; up then starts afresh with all data, and down leaves nothing."""
    stack.up(CHEAP)
    write(stack, 1)
    os.kill(read_pid(stack, records.SUPERVISOR), signal.SIGKILL)
    wait_until(lambda: records.SUPERVISOR not in list_running(stack))
    status = run_command(stack, "status")
    assert (status.returncode, status.stderr) == (1, "")
    assert status.stdout.count("\n") == 1
    assert "was killed, but" in status.stdout
    assert "restart them with make up, or stop them with make down" in status.stdout
    stack.up(CHEAP)
    assert read(stack) == {1}
    os.kill(read_pid(stack, records.SUPERVISOR), signal.SIGKILL)
    assert run_command(stack, "down").returncode == 0
    assert list_processes_of(stack) == []
