"""The command line of the local servers, as far as no server is needed."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stack import launch, records
from stack.cli import _COMMANDS, _parser
from stack.config import PORT_PREFIX, PROJECT, LocalConfig


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    """A home that is not made yet, with ports that nobody has."""
    return LocalConfig.with_free_ports(tmp_path / "home")


def command(config: LocalConfig, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """``python -m stack`` in a process of its own: it takes over signals."""
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in config.ports.items()}
    return subprocess.run(
        [sys.executable, "-m", "stack", *arguments],
        cwd=PROJECT,
        env={**os.environ, "MILLRACE_HOME": str(config.home), **ports, **more},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_lists_every_command(config: LocalConfig) -> None:
    """Each with a word on what it does; nothing is made."""
    done = command(config, "--help")
    assert done.returncode == 0
    listed = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith("    ")}
    for name in ("up", "down", "status", "logs", "env", "reset", "doctor", "lock-jars"):
        assert listed[name], name
    assert not config.home.exists()


def test_every_command_is_known() -> None:
    """What the parser takes is what is carried out."""
    for name in _COMMANDS:
        assert _parser().parse_args([name]).command == name


@pytest.mark.parametrize("arguments", [[], ["upp"], ["logs", "-n", "many"]])
def test_a_wrong_line_is_refused(arguments: list[str]) -> None:
    """Exit code 2, as other programs have it."""
    with pytest.raises(SystemExit) as caught:
        _parser().parse_args(arguments)
    assert caught.value.code == 2


def test_an_unknown_server_is_named(config: LocalConfig) -> None:
    """Exit code 1, the name, those that there are, and nothing was started."""
    done = command(config, "up", "--only", "redis,karfka")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no server 'karfka'; there are: ")
    assert "kafka" in done.stderr.split("there are:")[1]
    assert not config.home.exists()


def test_a_log_that_is_not_there_is_an_error(config: LocalConfig) -> None:
    """Exit code 1 and how to start, since nothing was started yet."""
    done = command(config, "logs", "kafka")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no log kafka in ")
    assert "python -m stack up" in done.stderr


@pytest.mark.parametrize("name", ["down", "status"])
def test_a_running_demo_is_pointed_to(config: LocalConfig, name: str) -> None:
    """Who stops or looks at the stack beside the demo's, which does not run, is told where the demo's is."""
    assert "demo" not in command(config, name).stderr
    records.folder(config.demo.run).mkdir(parents=True)
    launch.write_record(records.path(config.demo.run, records.SUPERVISOR), records.SUPERVISOR)
    assert f"say MILLRACE_HOME={config.home / 'demo'}, or" in command(config, name).stderr


def test_a_wrong_setting_is_an_error(config: LocalConfig) -> None:
    """Exit code 1 and the setting's name, and no traceback."""
    done = command(config, "down", MILLRACE_SHARDS="none")
    assert (done.returncode, done.stderr) == (
        1,
        "error: MILLRACE_SHARDS is 'none'; it must be a whole number from 1 to 4096\n",
    )


def test_env_is_for_a_shell(config: LocalConfig, tmp_path: Path) -> None:
    """Export lines alone; ``--home`` wins over the environment; secrets are made, for their owner's eyes."""
    home = tmp_path / "another"
    done = command(config, "--home", str(home), "env")
    assert done.returncode == 0
    words = [shlex.split(line) for line in done.stdout.splitlines()]
    assert {word[0] for word in words} == {"export"}
    told = dict(word[1].split("=", 1) for word in words)
    assert told["MILLRACE_HOME"] == str(home)
    assert told["MILLRACE_KAFKA_BOOTSTRAP"] == config.address("kafka")
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600
    assert not config.home.exists()


def test_status_of_nothing(config: LocalConfig) -> None:
    """Exit code 1: no server runs, and the table says so of each."""
    done = command(config, "status")
    assert done.returncode == 1, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:-1]]
    assert {row[1] for row in rows} == {"stopped"}
    assert {row[-1] for row in rows} == {"no"}
    assert "kafka" in [row[0] for row in rows]


def test_down_of_nothing(config: LocalConfig) -> None:
    """What does not run is ended already: no error, and no home is made for it."""
    done = command(config, "down")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not config.home.exists()


@pytest.mark.parametrize("answer", ["n\n", "yes please\n", ""])
def test_reset_asks_first(config: LocalConfig, answer: str) -> None:
    """Anything but a y, also no answer at all as in a script, leaves the data and says so."""
    config.data("kafka").mkdir(parents=True)
    done = command(config, "reset", stdin=answer)
    assert done.returncode == 1
    assert str(config.home) in done.stdout
    assert "nothing was done" in done.stdout
    assert "Traceback" not in done.stderr
    assert config.data("kafka").exists()


@pytest.mark.parametrize(("arguments", "answer"), [(["reset"], "y\n"), (["reset", "--yes"], "")])
def test_reset_deletes_the_data_and_keeps_downloads(config: LocalConfig, arguments: list[str], answer: str) -> None:
    """Data, logs and Airflow's files go; jars and secrets stay."""
    for folder in (config.data("kafka"), config.logs, config.home / "airflow", config.home / "jars"):
        folder.mkdir(parents=True)
    (config.home / "secrets.json").write_text("{}")
    assert command(config, *arguments, stdin=answer).returncode == 0
    assert not [name for name in ("data", "logs", "airflow", "run") if (config.home / name).exists()]
    assert (config.home / "jars").exists()
    assert (config.home / "secrets.json").exists()
