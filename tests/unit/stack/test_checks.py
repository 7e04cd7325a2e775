"""The checks before a start and of ``doctor``: problems as sentences that say what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack import checks, doctor, jars
from stack.config import LOOPBACK, LocalConfig, find_free_ports
from stack.installation import config_on_free_ports, load_secrets, read_config
from stack.servers import SERVERS

KAFKA = next(server for server in SERVERS if server.name == "kafka")


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    return replace(config_on_free_ports(tmp_path / "home"), jar_cache=tmp_path / "jars")


@pytest.fixture
def occupied_port(config: LocalConfig) -> Iterator[int]:
    """Kafka's port, used by this process."""
    with socket.create_server((LOOPBACK, config.ports["kafka"])):
        yield config.ports["kafka"]


def test_free_ports_are_fine(config: LocalConfig) -> None:
    """Without a problem there is no message."""
    assert checks.check_ports(config, SERVERS) == []


def test_a_taken_port_is_reported_with_its_setting(config: LocalConfig, occupied_port: int) -> None:
    """The message includes the port, its server, the process that uses it and the setting that changes it."""
    (problem,) = checks.check_ports(config, SERVERS)
    assert problem.startswith(f"port {occupied_port} for kafka is taken by process {os.getpid()} (")
    assert problem.endswith("stop that process, or set MILLRACE_PORT_KAFKA to a free port")


def test_only_the_ports_of_the_given_servers_are_checked(config: LocalConfig, occupied_port: int) -> None:
    """The port of another server does not prevent a start."""
    assert occupied_port == config.ports["kafka"]
    assert checks.check_ports(config, [server for server in SERVERS if server is not KAFKA]) == []


def test_every_port_of_a_server_is_checked(config: LocalConfig) -> None:
    """Ports that no client uses are checked too."""
    internal = [(server, name) for server in SERVERS for name in server.ports if name != server.main_port]
    assert internal, "some server has an internal port"
    for server, name in internal:
        with socket.create_server((LOOPBACK, config.ports[name])):
            (problem,) = checks.check_ports(config, [server])
        assert f"MILLRACE_PORT_{name.upper()}" in problem


def test_too_little_disk(tmp_path: Path) -> None:
    """The message includes the free and required space and the setting to change, even for a missing folder."""
    assert checks.check_disk(tmp_path / "not" / "yet", 1) == []
    (problem,) = checks.check_disk(tmp_path / "not" / "yet", 10**18)
    assert problem.startswith(f"{tmp_path} has ")
    assert "1000000000.0 GB are needed" in problem
    assert "set MILLRACE_HOME" in problem


def test_too_little_memory() -> None:
    """The message includes the available and required memory, and how to get by with less."""
    assert checks.check_memory(1) == []
    (problem,) = checks.check_memory(10**18)
    assert "1000000000.0 GB are needed" in problem
    assert "--only" in problem


def test_the_suite_runs_on_the_right_python() -> None:
    """The project supports 3.12 and is tested with it."""
    assert checks.check_python() == []


def test_all_problems_are_reported_together(
    config: LocalConfig, occupied_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single start reports every problem, one per line."""
    monkeypatch.setattr(checks, "DISK_NEEDED", 10**18)
    monkeypatch.setattr(checks, "MEMORY_NEEDED", 10**18)
    with pytest.raises(ConfigurationError) as caught:
        checks.check_machine(config, list(SERVERS))
    first, *rest = str(caught.value).splitlines()
    assert first == "the local servers cannot start here:"
    assert len(rest) == 3
    assert f"port {occupied_port}" in rest[0]
    assert "MILLRACE_HOME" in rest[1]
    assert "--only" in rest[2]


def test_without_servers_nothing_is_checked(config: LocalConfig, occupied_port: int) -> None:
    """A second ``up`` of a running stack must not complain about its own ports."""
    checks.check_machine(config, [])
    with pytest.raises(ConfigurationError, match=f"port {occupied_port}"):
        checks.check_machine(config, [KAFKA])


def test_fewer_servers_need_less_memory(config: LocalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message recommends ``--only``, so it must help."""
    requested: list[int] = []
    monkeypatch.setattr(checks, "DISK_NEEDED", 0)

    def enough(needed: int) -> list[str]:
        requested.append(needed)
        return []

    monkeypatch.setattr(checks, "check_memory", enough)
    checks.check_machine(config, [KAFKA])
    checks.check_machine(config, list(SERVERS))
    assert requested == [checks.MEMORY_NEEDED // len(SERVERS), checks.MEMORY_NEEDED]


@pytest.fixture
def unreachable_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jar repository that does not respond."""
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"http://{LOOPBACK}:{find_free_ports(1)[0]}")


def findings(config: LocalConfig) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(config)}


@pytest.mark.usefixtures("unreachable_repository")
def test_the_doctor_reports_a_taken_port(config: LocalConfig, occupied_port: int) -> None:
    """The port is reported before anything is started, and nothing is created."""
    (problem,) = findings(config)["ports"].problems
    assert f"port {occupied_port} for kafka" in problem
    assert not config.home.exists()
    assert not config.jar_cache.exists()


@pytest.mark.usefixtures("unreachable_repository")
def test_the_doctor_reports_every_check(config: LocalConfig, occupied_port: int) -> None:
    """There is one line per check; a failed check has NO and, below it, what to do."""
    lines: list[str] = []
    assert not doctor.print_findings(config, lines.append)
    checked = [line.split()[1] for line in lines if not line.startswith(" ")]
    assert checked == ["Python", "packages", "ports", "disk", "memory", "folders", "postgres", "jars"]
    position = next(number for number, line in enumerate(lines) if line.startswith("NO  ports"))
    assert lines[position + 1].startswith(f"    - port {occupied_port} for kafka")
    assert "ok  Python" in [line[:10] for line in lines]


@pytest.mark.usefixtures("unreachable_repository")
def test_missing_jars_without_a_network(config: LocalConfig) -> None:
    """The message includes their number and the settings for a mirror and a proxy, until all jars are cached."""
    (problem,) = findings(config)["jars"].problems
    locked = jars.read_lock()
    assert problem.startswith(f"{len(locked)} of {len(locked)} are missing. ")
    assert "MILLRACE_MAVEN_REPOSITORY" in problem
    for jar in locked:
        (config.jar_cache / jar.file).parent.mkdir(parents=True, exist_ok=True)
        (config.jar_cache / jar.file).touch()
    assert findings(config)["jars"].problems == []


def test_secrets_that_others_can_read(config: LocalConfig) -> None:
    """The message includes the command that fixes it; a generated file is fine."""
    load_secrets(config)
    assert doctor._check_folders(config) == []
    (config.home / "secrets.json").chmod(0o640)
    (problem,) = doctor._check_folders(config)
    assert problem.endswith(f"chmod 600 {config.home / 'secrets.json'}")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete installation is reported with the missing packages and the command that completes it."""
    assert doctor._check_packages() == []
    monkeypatch.setattr(doctor, "_PACKAGES", ("json", "no_such_package"))
    assert doctor._check_packages() == ["no_such_package cannot be imported: run make setup"]


def test_the_packages_of_every_server_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server declares what it imports, and the doctor looks for it."""
    monkeypatch.setattr(doctor, "SERVERS", (replace(KAFKA, packages=("no_such_package",)),))
    assert doctor._check_packages() == ["no_such_package cannot be imported: run make setup"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for PostgreSQL")
def test_postgres_without_a_user_to_run_as(config: LocalConfig) -> None:
    """A missing user, or root, is reported with its setting."""
    for name in ("no-such-user", "root"):
        wrong_user = read_config({"MILLRACE_POSTGRES_USER": name}, config.home)
        ((problem,), _) = doctor._check_postgres(wrong_user)
        assert name in problem
        assert "MILLRACE_POSTGRES_USER" in problem
