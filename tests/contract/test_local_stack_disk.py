"""A disk that fills up, or becomes read-only, while servers run: they can be looked at and stopped all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack import checks
from stack.installation import config_on_free_ports
from stack.stack import Stack
from tests.contract.local_stack import CHEAP, ReportLog, list_running, run_command
from tests.unit.disks import fill, make_read_only, mounted_disk


@pytest.fixture
def small(tmp_path: Path, reports: ReportLog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Two servers that run on a disk of 40 MB."""
    monkeypatch.setattr(checks, "DISK_NEEDED", 0)
    with mounted_disk(tmp_path / "disk", megabytes=40) as disk:
        stack = Stack(config_on_free_ports(disk / "home"), reports)
        try:
            stack.up(CHEAP)
            yield stack
        finally:
            if list_running(stack):
                stack.down()


def test_a_disk_that_fills_up(small: Stack) -> None:
    """status shows the servers, down stops them, the next up names the folder, and reset makes space again."""
    fill(small.config.home.parent)
    status = run_command(small, "status")
    assert (status.returncode, status.stderr) == (0, "")
    down = run_command(small, "down")
    assert (down.returncode, down.stderr) == (0, "")
    assert list_running(small) == []
    up = run_command(small, "up", "--only", "redis")
    assert up.returncode == 1
    assert up.stderr.startswith("error: the local servers cannot start here:\n")
    assert f"{small.config.home} has 0.0 GB free" in up.stderr
    assert "or set MILLRACE_HOME to a folder on another disk\n" in up.stderr
    assert run_command(small, "reset", "--yes").returncode == 0


def test_a_disk_that_becomes_read_only(small: Stack) -> None:
    """status shows the servers; down stops them, and then says what it could not write."""
    make_read_only(small.config.home.parent)
    assert all(name in run_command(small, "status").stdout for name in CHEAP)
    down = run_command(small, "down")
    assert (down.returncode, down.stderr.count("\n")) == (1, 1)
    assert "Read-only file system" in down.stderr
    assert "MILLRACE_HOME" in down.stderr
    assert list_running(small) == []


def test_a_disk_that_is_too_small_for_a_server(small: Stack, reports: ReportLog) -> None:
    """If a server cannot start because the disk is full by then, the error says that, and the others keep running."""
    fill(small.config.home.parent)
    more = Stack(replace(small.config, extra_environment={}), reports)
    with pytest.raises(ConfigurationError, match=r"the disk of .* is full: .*MILLRACE_HOME"):
        more.up(["postgres"])
    assert set(CHEAP) <= set(list_running(small))
