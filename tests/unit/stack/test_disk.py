"""A home on a full or read-only disk: every command ends with one sentence that names the folder and the setting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.config import PROJECT
from tests.unit.disks import fill, make_read_only, mounted_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", megabytes=2) as disk:
        yield disk


def run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("command", [("stack", "up"), ("demo",)])
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_starting_on_a_bad_disk(disk: Path, state: str, command: tuple[str, ...]) -> None:
    """The error names the folder and MILLRACE_HOME, and nothing is started."""
    (fill if state == "full" else make_read_only)(disk)
    done = run(*command, MILLRACE_HOME=str(disk / "home"))
    assert_one_sentence(done, str(disk / "home"), "MILLRACE_HOME", "full" if state == "full" else "Read-only")
    assert done.stdout == ""


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_looking_at_a_bad_disk(disk: Path, state: str) -> None:
    """Where nothing was ever started, down and status say so; a read-only disk is no reason to fail."""
    (disk / "home" / "run").mkdir(parents=True)
    (disk / "home" / "lock").touch()
    (fill if state == "full" else make_read_only)(disk)
    for command, code in (("down", 0), ("status", 1)):
        done = run("stack", command, MILLRACE_HOME=str(disk / "home"))
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout.startswith(f"nothing is running in {disk / 'home'}")
        assert done.stdout.count("\n") == 1


def test_resetting_on_a_full_disk(disk: Path) -> None:
    """Deleting the data is how a full disk gets space again."""
    home = disk / "home"
    (home / "data").mkdir(parents=True)
    fill(disk)
    (disk / "filler").rename(home / "data" / "filler")
    done = run("stack", "reset", "--yes", MILLRACE_HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (home / "data").exists()


def test_resetting_on_a_read_only_disk(disk: Path) -> None:
    """The error names what was not deleted, and the data is still there."""
    home = disk / "home"
    (home / "data" / "kafka").mkdir(parents=True)
    (home / "lock").touch()
    make_read_only(disk)
    done = run("stack", "reset", "--yes", MILLRACE_HOME=str(home))
    assert_one_sentence(done, f"could not delete {home / 'data' / 'kafka'} (Read-only file system)", "MILLRACE_HOME")
    assert (home / "data" / "kafka").exists()


def test_a_home_below_a_file(tmp_path: Path) -> None:
    """A MILLRACE_HOME that cannot be created is named, with the reason."""
    (tmp_path / "file").touch()
    done = run("stack", "up", MILLRACE_HOME=str(tmp_path / "file" / "home"))
    assert_one_sentence(done, f"{tmp_path / 'file'}", "MILLRACE_HOME")
