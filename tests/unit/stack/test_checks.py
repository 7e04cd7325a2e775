"""What stands in the way of starting servers, in sentences that say what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack import checks, doctor, jars
from stack.config import DEFAULT_PORTS, LOOPBACK, LocalConfig, free_ports
from stack.credentials import load_or_create
from stack.servers import SERVERS

KAFKA = next(server for server in SERVERS if server.name == "kafka")


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    found = LocalConfig.with_free_ports(tmp_path / "home")
    return LocalConfig(home=found.home, ports=found.ports, jar_cache=tmp_path / "jars")


@pytest.fixture
def taken(config: LocalConfig) -> Iterator[int]:
    """Kafka's port, which we listen on."""
    with socket.create_server((LOOPBACK, config.ports["kafka"])):
        yield config.ports["kafka"]


def test_free_ports_are_no_problem(config: LocalConfig) -> None:
    """Nothing is said when nothing is wrong."""
    assert checks.port_problems(config, SERVERS) == []


def test_a_taken_port_is_named_with_its_setting(config: LocalConfig, taken: int) -> None:
    """The port, the server that wants it, the process that has it, and the setting that changes it."""
    (problem,) = checks.port_problems(config, SERVERS)
    assert problem.startswith(f"port {taken} for kafka is taken by process {os.getpid()} (")
    assert problem.endswith("stop that process, or set MILLRACE_PORT_KAFKA to a free port")


def test_only_the_ports_of_these_servers_count(config: LocalConfig, taken: int) -> None:
    """Who starts one server is not stopped by the port of another."""
    assert taken == config.ports["kafka"]
    assert checks.port_problems(config, [server for server in SERVERS if server is not KAFKA]) == []


def test_every_port_of_a_server_is_looked_at(config: LocalConfig) -> None:
    """Also those that no client uses."""
    inner = [(server, name) for server in SERVERS for name in server.ports[1:]]
    assert inner, "some server has an inner port"
    for server, name in inner:
        with socket.create_server((LOOPBACK, config.ports[name])):
            (problem,) = checks.port_problems(config, [server])
        assert f"MILLRACE_PORT_{name.upper()}" in problem


def test_each_port_setting_belongs_to_a_server() -> None:
    """Otherwise a taken one would be found by a server that fails, and not before."""
    assert {name for server in SERVERS for name in server.ports} == set(DEFAULT_PORTS)


def test_too_little_disk(tmp_path: Path) -> None:
    """What is free, what is needed, and the setting for another disk; of the nearest folder that is there."""
    assert checks.disk_problems(tmp_path / "not" / "yet", 1) == []
    (problem,) = checks.disk_problems(tmp_path / "not" / "yet", 10**18)
    assert problem.startswith(f"{tmp_path} has ")
    assert "1000000000.0 GB are needed" in problem
    assert "set MILLRACE_HOME" in problem


def test_too_little_memory() -> None:
    """What is available, what is needed, and how to need less."""
    assert checks.memory_problems(1) == []
    (problem,) = checks.memory_problems(10**18)
    assert "1000000000.0 GB are needed" in problem
    assert "--only" in problem


def test_the_python_of_the_suite_is_the_right_one() -> None:
    """The project is made for 3.12 and tested with it."""
    assert checks.python_problems() == []


def test_all_problems_are_said_at_once(config: LocalConfig, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One start names everything that is wrong, a line each."""
    monkeypatch.setattr(checks, "DISK_NEEDED", 10**18)
    monkeypatch.setattr(checks, "MEMORY_NEEDED", 10**18)
    with pytest.raises(ConfigurationError) as caught:
        checks.check_machine(config, list(SERVERS))
    first, *rest = str(caught.value).splitlines()
    assert first == "the local servers cannot start here:"
    assert len(rest) == 3
    assert f"port {taken}" in rest[0]
    assert "MILLRACE_HOME" in rest[1]
    assert "--only" in rest[2]


def test_nothing_to_start_needs_nothing(config: LocalConfig, taken: int) -> None:
    """A second ``up`` of a running stack finds its own ports taken, and that is right."""
    checks.check_machine(config, [])
    with pytest.raises(ConfigurationError, match=f"port {taken}"):
        checks.check_machine(config, [KAFKA])


def test_fewer_servers_need_less_memory(config: LocalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--only`` is what the message advises, so it must help."""
    asked: list[int] = []
    monkeypatch.setattr(checks, "DISK_NEEDED", 0)

    def enough(needed: int) -> list[str]:
        asked.append(needed)
        return []

    monkeypatch.setattr(checks, "memory_problems", enough)
    checks.check_machine(config, [KAFKA])
    checks.check_machine(config, list(SERVERS))
    assert asked == [checks.MEMORY_NEEDED // len(SERVERS), checks.MEMORY_NEEDED]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of jars that nobody serves."""
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"http://{LOOPBACK}:{free_ports(1)[0]}")


def findings(config: LocalConfig) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(config)}


@pytest.mark.usefixtures("nowhere")
def test_the_doctor_names_a_taken_port(config: LocalConfig, taken: int) -> None:
    """Before anything is started, and it leaves nothing behind."""
    (problem,) = findings(config)["ports"].problems
    assert f"port {taken} for kafka" in problem
    assert not config.home.exists()
    assert not config.jar_cache.exists()


@pytest.mark.usefixtures("nowhere")
def test_the_doctor_says_each_check(config: LocalConfig, taken: int) -> None:
    """A line a check, NO and what to do below it where something is wrong, and the answer is no."""
    said: list[str] = []
    assert not doctor.report(config, said.append)
    checked = [line.split()[1] for line in said if not line.startswith(" ")]
    assert checked == ["Python", "packages", "ports", "disk", "memory", "folders", "postgres", "jars"]
    place = next(number for number, line in enumerate(said) if line.startswith("NO  ports"))
    assert said[place + 1].startswith(f"    - port {taken} for kafka")
    assert "ok  Python" in [line[:10] for line in said]


@pytest.mark.usefixtures("nowhere")
def test_missing_jars_without_a_network(config: LocalConfig) -> None:
    """How many are missing, and which settings name a mirror or a proxy; none is missing once all are there."""
    (problem,) = findings(config)["jars"].problems
    wanted = jars.parse(jars.LOCK.read_text(encoding="utf-8"))
    assert problem.startswith(f"{len(wanted)} of {len(wanted)} are missing. ")
    assert "MILLRACE_MAVEN_REPOSITORY" in problem
    for jar in wanted:
        (config.jar_cache / jar.file).parent.mkdir(parents=True, exist_ok=True)
        (config.jar_cache / jar.file).touch()
    assert findings(config)["jars"].problems == []


def test_secrets_that_others_can_read(config: LocalConfig) -> None:
    """The command that mends it is named; a file as we make it is right."""
    load_or_create(config.home)
    assert doctor._folder_problems(config) == []
    (config.home / "secrets.json").chmod(0o640)
    (problem,) = doctor._folder_problems(config)
    assert problem.endswith(f"chmod 600 {config.home / 'secrets.json'}")


def test_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that was cut short is named by what it lacks, with the command that completes it."""
    assert doctor._package_problems() == []
    monkeypatch.setattr(doctor, "_PACKAGES", ("json", "no_such_package_of_ours"))
    assert doctor._package_problems() == ["no_such_package_of_ours cannot be imported: run make setup"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for PostgreSQL")
def test_postgres_without_a_user_to_run_as(config: LocalConfig) -> None:
    """A user that does not exist is named with its setting, as is root."""
    for name in ("no-such-user", "root"):
        lacking = LocalConfig(home=config.home, postgres_user=name)
        ((problem,), _) = doctor._postgres(lacking)
        assert name in problem
        assert "MILLRACE_POSTGRES_USER" in problem


def test_every_server_has_a_name_of_its_own() -> None:
    """Logs, records and specs are named by it."""
    assert len({server.name for server in SERVERS}) == len(SERVERS)
