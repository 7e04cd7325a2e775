"""The demo's command line, as far as no server is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.cli import _parser, installation_seconds, options_from
from demo.run import Options
from include.errors import ConfigurationError
from stack.config import PROJECT


def options(*arguments: str, **environment: str) -> Options:
    return options_from(_parser().parse_args(arguments), environment, 1_000.0)


def test_defaults() -> None:
    """A small shop, in a home of the demo's own, with the servers left running."""
    found = options()
    assert (found.shop.users, found.shop.events, found.file) == (2_000, 20_000, None)
    assert found.config.home == PROJECT / ".local" / "demo"
    assert found.report == PROJECT / ".local" / "reports" / "demo.json"
    assert not found.fresh
    assert not found.stop_after


def test_the_home_follows_the_installation(tmp_path: Path) -> None:
    """Who moves the installation to another disk moves the demo too; --home wins."""
    assert options(MILLRACE_HOME=str(tmp_path)).config.home == tmp_path / "demo"
    assert options("--home", str(tmp_path / "x"), MILLRACE_HOME=str(tmp_path)).config.home == tmp_path / "x"


def test_the_file_is_taken_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path names the same file in every later run."""
    monkeypatch.chdir(tmp_path)
    assert options("--events", "e.jsonl").file == tmp_path / "e.jsonl"


@pytest.mark.parametrize("sizes", [("--users", "0"), ("--users", "9", "--count", "8")])
def test_senseless_sizes(sizes: tuple[str, ...]) -> None:
    """A shop has at least one user, and one event a user."""
    with pytest.raises(ConfigurationError, match="one event a user"):
        options(*sizes)


def test_installation_counts_only_when_it_was_made_just_now(tmp_path: Path) -> None:
    """The minutes of a first installation belong to the set-up of the run that made it, and to no other."""
    installed = tmp_path / ".installed"
    assert installation_seconds(installed, 0) == 0
    installed.write_text("97.5\n")
    os.utime(installed, (1_000, 1_000))
    assert installation_seconds(installed, 1_002) == 97.5
    assert installation_seconds(installed, 2_000) == 0
    installed.write_text("")
    os.utime(installed, (1_000, 1_000))
    assert installation_seconds(installed, 1_002) == 0


@pytest.mark.parametrize("module", ["demo", "demo.publish_file"])
def test_a_missing_file_ends_it_at_once(tmp_path: Path, module: str) -> None:
    """Exit code 1, a message that names the file, and no server was started."""
    flags = ["--events", "nowhere.jsonl", "--home", "home"] if module.endswith("demo") else ["nowhere.jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no file")
    assert not (tmp_path / "home" / "data").exists()


def test_a_home_in_use_is_left_alone(tmp_path: Path) -> None:
    """A second demo of one home ends with a message, and does not stop the first one's servers."""
    import fcntl

    from demo.manifest import LOCK_FILE

    with (tmp_path / LOCK_FILE).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "demo", "--home", str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert "another demo is running" in done.stderr
