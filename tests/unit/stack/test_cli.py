"""The command line of the local servers, as far as it can be tested without a server."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stack import launch, records
from stack.cli import _COMMANDS, _build_parser
from stack.config import PORT_PREFIX, PROJECT, LocalConfig
from stack.installation import config_on_free_ports

#: ``python -m stack`` in a process that exits with 99 if it looks up a host or connects beyond this machine.
OFFLINE = """
import os, sys

def forbid(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] != "127.0.0.1":
        os._exit(99)
    if event == "socket.connect" and not isinstance(arguments[1], (str, bytes)) and arguments[1][0] != "127.0.0.1":
        os._exit(99)

sys.addaudithook(forbid)
from stack.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    """A home that does not exist yet, on free ports."""
    return config_on_free_ports(tmp_path / "home")


def run(
    config: LocalConfig, python: list[str], arguments: tuple[str, ...], environment: dict[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in config.ports.items()}
    return subprocess.run(
        [sys.executable, *python, *arguments],
        cwd=PROJECT,
        env={"MILLRACE_HOME": str(config.home), **ports, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def command(config: LocalConfig, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """``python -m stack`` in its own process, because it changes signal handlers."""
    return run(config, ["-m", "stack"], arguments, {**os.environ, **more}, stdin)


def bare_command(config: LocalConfig, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m stack`` without any installed package: -S leaves out site-packages."""
    return run(config, ["-S", "-E", "-s", "-m", "stack"], arguments, {"PATH": os.environ["PATH"]})


def offline_command(config: LocalConfig, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(config, ["-c", OFFLINE], arguments, dict(os.environ))


def record_as_running(config: LocalConfig) -> None:
    """Record this process as the supervisor of this home."""
    records.records_folder(config.run).mkdir(parents=True)
    launch.write_record(records.record_path(config.run, records.SUPERVISOR), records.SUPERVISOR)


def record_as_ended(config: LocalConfig) -> None:
    """Record a process that is no longer running as the supervisor of this home."""
    record_as_running(config)
    path = records.record_path(config.run, records.SUPERVISOR)
    path.write_text(json.dumps({**json.loads(path.read_text()), "mark": "boot/1"}))


def test_help_lists_every_command(config: LocalConfig) -> None:
    """Each command has a description, and nothing is created."""
    done = command(config, "--help")
    assert done.returncode == 0
    described = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith("    ")}
    for name in ("up", "down", "status", "logs", "env", "reset", "doctor", "lock-jars"):
        assert described[name], name
    assert not config.home.exists()


def test_every_command_is_parsed() -> None:
    """The parser accepts every command that is implemented."""
    for name in _COMMANDS:
        assert _build_parser().parse_args([name]).command == name


@pytest.mark.parametrize("arguments", [[], ["upp"], ["logs", "-n", "many"]])
def test_a_wrong_command_line_is_rejected(arguments: list[str]) -> None:
    """The exit code is 2, as is usual."""
    with pytest.raises(SystemExit) as error:
        _build_parser().parse_args(arguments)
    assert error.value.code == 2


def test_an_unknown_server_is_reported(config: LocalConfig) -> None:
    """The exit code is 1, the message lists the servers, and nothing is started."""
    done = command(config, "up", "--only", "redis,karfka")
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown server 'karfka'; choose from: ")
    assert "kafka" in done.stderr.split("choose from:")[1]
    assert not config.home.exists()


def test_a_missing_log_is_an_error(config: LocalConfig) -> None:
    """The exit code is 1, and the message says how to start the servers."""
    done = command(config, "logs", "kafka")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there are no logs in ")
    assert "python -m stack up" in done.stderr


@pytest.mark.parametrize("name", ["down", "status"])
def test_a_running_demo_is_mentioned(config: LocalConfig, name: str) -> None:
    """A user who stops or looks at the default stack learns where the running demo's servers are."""
    assert "demo" not in command(config, name).stderr
    record_as_running(config.demo)
    assert f"set MILLRACE_HOME={config.home / 'demo'} or" in command(config, name).stderr


def test_an_invalid_setting_is_an_error(config: LocalConfig) -> None:
    """The exit code is 1, and the message names the setting, without a traceback."""
    done = command(config, "down", MILLRACE_SHARDS="none")
    assert (done.returncode, done.stderr) == (
        1,
        "error: MILLRACE_SHARDS is 'none'; it must be a whole number from 1 to 4096\n",
    )


def test_env_prints_export_lines(config: LocalConfig, tmp_path: Path) -> None:
    """The output is for a shell only, ``--home`` overrides the environment, and the new secrets are private."""
    home = tmp_path / "another"
    done = command(config, "--home", str(home), "env")
    assert done.returncode == 0
    words = [shlex.split(line) for line in done.stdout.splitlines()]
    assert {word[0] for word in words} == {"export"}
    variables = dict(word[1].split("=", 1) for word in words)
    assert variables["MILLRACE_HOME"] == str(home)
    assert variables["MILLRACE_KAFKA_BOOTSTRAP"] == config.address("kafka")
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600
    assert not config.home.exists()


def test_status_without_servers(config: LocalConfig) -> None:
    """The exit code is 1. It says that nothing was started, or else a table shows every server as stopped."""
    done = command(config, "status")
    sentence = f"nothing is running in {config.home}; start the servers with make up\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, sentence, "")
    record_as_ended(config)
    done = command(config, "status")
    assert done.returncode == 1, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:-1]]
    assert {row[1] for row in rows} == {"stopped"}
    assert {row[-1] for row in rows} == {"no"}
    assert "kafka" in [row[0] for row in rows]


def test_down_without_servers(config: LocalConfig) -> None:
    """If nothing is running, down says so, is not an error and creates no home."""
    done = command(config, "down")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nothing is running in {config.home}\n", "")
    assert not config.home.exists()


@pytest.mark.parametrize("answer", ["n\n", "yes please\n", ""])
def test_reset_asks_for_confirmation(config: LocalConfig, answer: str) -> None:
    """Any answer but y, or none as in a script, keeps the data."""
    config.data("kafka").mkdir(parents=True)
    done = command(config, "reset", stdin=answer)
    assert done.returncode == 1
    assert str(config.home) in done.stdout
    assert "nothing was deleted" in done.stdout
    assert "Traceback" not in done.stderr
    assert config.data("kafka").exists()


@pytest.mark.parametrize(("arguments", "answer"), [(["reset"], "y\n"), (["reset", "--yes"], "")])
def test_reset_deletes_the_data_and_keeps_downloads(config: LocalConfig, arguments: list[str], answer: str) -> None:
    """Data, logs and Airflow's files are deleted; jars and secrets stay."""
    for folder in (config.data("kafka"), config.logs, config.home / "airflow", config.home / "jars"):
        folder.mkdir(parents=True)
    (config.home / "secrets.json").write_text("{}")
    assert command(config, *arguments, stdin=answer).returncode == 0
    assert not [name for name in ("data", "logs", "airflow", "run") if (config.home / name).exists()]
    assert (config.home / "jars").exists()
    assert (config.home / "secrets.json").exists()


@pytest.mark.parametrize("arguments", [("up",), ("down",), ("status",), ("reset", "--yes"), ("lock-jars",)])
def test_without_packages_a_command_says_what_to_run(config: LocalConfig, arguments: tuple[str, ...]) -> None:
    """On a bare Python, while servers may be running, the exit code is 1 with one sentence, and nothing is changed."""
    record_as_running(config)
    config.data("kafka").mkdir(parents=True)
    done = bare_command(config, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the Python packages psutil, supervisor are not installed: run make setup first\n"
    assert config.data("kafka").exists()


@pytest.mark.parametrize(
    ("arguments", "code"), [(("down",), 0), (("status",), 1), (("reset",), 0), (("reset", "--yes"), 0)]
)
def test_without_packages_nothing_is_running(config: LocalConfig, arguments: tuple[str, ...], code: int) -> None:
    """On a clone that was never set up, one sentence says that nothing is running, and no folder is created."""
    done = bare_command(config, *arguments)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(f"nothing is running in {config.home}")
    assert done.stdout.count("\n") == 1
    assert not config.home.exists()


def test_without_packages_stopped_servers_are_reset(config: LocalConfig) -> None:
    """After down, the data can be deleted on a bare Python too: only running servers need packages."""
    records.records_folder(config.run).mkdir(parents=True)
    config.data("kafka").mkdir(parents=True)
    assert bare_command(config, "down").stdout == f"nothing is running in {config.home}\n"
    done = bare_command(config, "reset", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert not config.data("kafka").exists()
    assert not config.run.exists()


def test_without_packages_logs_are_shown(config: LocalConfig) -> None:
    """Showing a file needs no package; without logs the message says how to start the servers."""
    missing = bare_command(config, "logs")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "start the servers with" in missing.stderr
    config.logs.mkdir(parents=True)
    config.log("kafka").write_text("hello\n")
    done = bare_command(config, "logs", "kafka")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello" in done.stdout


@pytest.mark.parametrize("running", [False, True])
def test_without_packages_the_doctor_works(config: LocalConfig, running: bool) -> None:
    """On a bare Python it reports the missing packages and the checks that it cannot make, running stack or not."""
    if running:
        record_as_running(config)
    done = bare_command(config, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    lines = {words[1]: line for line in done.stdout.splitlines() if len(words := line.split()) > 1}
    assert lines["Python"].startswith("ok")
    assert lines["packages"].startswith("NO")
    assert "psutil" in done.stdout
    assert "run make setup" in done.stdout
    unchecked = {name for name, line in lines.items() if line.startswith("--")}
    # Whether the jars are all there depends on the machine.
    assert unchecked - {"jars"} == ({"memory", "ports"} if running else {"memory"})


@pytest.mark.parametrize(
    ("arguments", "code"), [(("down",), 0), (("status",), 1), (("logs",), 0), (("reset", "--yes"), 0)]
)
def test_these_commands_need_no_network(config: LocalConfig, arguments: tuple[str, ...], code: int) -> None:
    """They work on an installed environment while offline."""
    config.logs.mkdir(parents=True)
    config.log("kafka").write_text("hello\n")
    done = offline_command(config, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
