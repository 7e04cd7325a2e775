"""The local servers as processes: started, checked, described and stopped."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from redis import Redis

from include.errors import ConfigurationError
from stack import records
from stack.launch import process_fingerprint
from stack.server import ServerError
from stack.stack import Stack
from tests.contract.local_stack import (
    CHEAP,
    LATE,
    PATIENCE_S,
    ReportLog,
    list_running,
    python_server,
    read_pid,
    reader_is_healthy,
    run_command,
    running_starter,
    wait_until,
)
from tests.contract.privacy import list_exposed_paths


def test_up_returns_when_servers_are_healthy_and_down_stops_all(stack: Stack, reports: ReportLog) -> None:
    """The requested server is healthy, as are those it needs; after down none of their processes runs."""
    stack.up(["reader"])
    assert reader_is_healthy(stack)
    assert {row.name for row in stack.status() if row.healthy} == set(CHEAP)
    members = [pid for record in records.read_all(stack.config.run) for pid in record.members()]
    assert len(members) >= 3
    stack.down()
    assert not any(map(process_fingerprint, members))
    assert not reader_is_healthy(stack)
    assert "2 servers are up" in reports.text


def test_running_up_twice_changes_nothing(stack: Stack, reports: ReportLog) -> None:
    """Running servers stay untouched and are reported as already up."""
    stack.up(CHEAP)
    before = {name: read_pid(stack, name) for name in (*CHEAP, records.SUPERVISOR)}
    stack.up(CHEAP)
    assert {name: read_pid(stack, name) for name in before} == before
    assert reports.text.count("was already up") == len(CHEAP)


def test_a_server_is_up_once_it_is_healthy(stack: Stack, reports: ReportLog) -> None:
    """A running process that listens is not enough: it must report that it is ready."""
    late = python_server(LATE)
    with running_starter(stack, reports, late) as starter:
        starter.start([late])
        assert httpx.get(f"http://{stack.config.address('redis')}", trust_env=False).is_success
    assert list_running(stack) == []


def test_a_later_up_adds_servers(stack: Stack) -> None:
    """Starting another server does not disturb the running ones, even if it fails."""
    stack.up(["redis"])
    first = read_pid(stack, "redis")
    odd = replace(stack.config, extra_environment={"MILLRACE_READER_PORT": "none"})
    with pytest.raises(ServerError, match="reader keeps exiting"):
        Stack(odd, stack.report).up(["reader"])
    assert set(list_running(stack)) == {"redis", records.SUPERVISOR}
    stack.up(["reader"])
    assert reader_is_healthy(stack)
    assert read_pid(stack, "redis") == first


def test_only_one_command_changes_a_home_at_a_time(stack: Stack, reports: ReportLog) -> None:
    """An up waits for another up, down or reset of its home, and says so."""
    with (stack.config.home / "lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        up = pool.submit(stack.up, ["redis"])
        wait_until(lambda: reports or up.done())
        assert reports.text == "waiting for another up, down or reset of this home"
        assert list_running(stack) == []
        fcntl.flock(lock, fcntl.LOCK_UN)
        up.result(PATIENCE_S)
    assert set(list_running(stack)) == {"redis", records.SUPERVISOR}


def test_changed_settings_of_a_running_server_are_rejected(stack: Stack, reports: ReportLog) -> None:
    """A changed port of a running server is an error, and the server keeps running."""
    stack.up(["redis"])
    moved = {**stack.config.ports, "redis": stack.config.ports["mongo"]}
    with pytest.raises(ConfigurationError, match="the settings of redis have changed since it started"):
        Stack(replace(stack.config, ports=moved), reports).up(["redis"])
    assert "redis" in list_running(stack)


def test_the_commands_describe_the_running_servers(stack: Stack) -> None:
    """status, env and logs show which servers are healthy, their addresses and their logs; none needs the network."""
    stack.up(CHEAP)
    status = run_command(stack, "status", offline=True)
    assert status.returncode == 0, status.stdout + status.stderr
    assert all(name in status.stdout for name in CHEAP)
    environment = run_command(stack, "env").stdout
    assert f"export MILLRACE_READER_URL=http://{stack.config.address('reader')}\n" in environment
    assert "Ready to accept connections" in run_command(stack, "logs", "redis", offline=True).stdout
    assert run_command(stack, "logs", "nothing").returncode == 1
    os.kill(read_pid(stack, records.SUPERVISOR), signal.SIGKILL)
    wait_until(lambda: records.SUPERVISOR not in list_running(stack))
    assert run_command(stack, "down", offline=True).returncode == 0
    assert list_running(stack) == []


def test_a_stack_is_private_whatever_the_umask(stack: Stack) -> None:
    """With a umask that hides nothing, all that is written is private, and what an older version left is closed."""
    left = stack.config.logs / "airflow.log"
    left.parent.mkdir(mode=0o755)
    left.touch(0o644)
    before = os.umask(0)
    try:
        stack.up(CHEAP)
    finally:
        os.umask(before)
    assert reader_is_healthy(stack)
    assert list_exposed_paths(stack) == []


def test_a_long_home_has_a_private_socket(stack: Stack) -> None:
    """The supervisor's socket is then in a folder of its own below the temporary folder, which only its owner enters.

    After down the socket is gone.
    """
    home = stack.config.home / ("x" * 100)
    folder = Path(tempfile.gettempdir()) / f"millrace-{os.geteuid()}-run"
    before = set(folder.glob("*"))
    with Stack(replace(stack.config, home=home), stack.report) as long:
        long.up(["redis"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (socket,) = set(folder.glob("*")) - before
        assert stat.S_ISSOCK(socket.stat().st_mode)
    assert not socket.exists()


def test_reset_deletes_data_and_keeps_downloads(stack: Stack, reports: ReportLog) -> None:
    """After reset the servers start empty; the jars stay, even inside the home."""
    jar = stack.config.home / "jars" / "some.jar"
    jar.parent.mkdir()
    jar.touch()
    own = Stack(replace(stack.config, jar_cache=jar.parent), reports)
    own.up(["redis"])
    with Redis.from_url(own.environment()["MILLRACE_REDIS_URL"]) as client:
        client.set("key", "value")
    own.reset()
    assert list_running(own) == []
    assert not (own.config.home / "data").exists()
    assert not own.config.logs.exists()
    assert jar.exists()
    own.up(["redis"])
    with Redis.from_url(own.environment()["MILLRACE_REDIS_URL"]) as client:
        assert client.get("key") is None
