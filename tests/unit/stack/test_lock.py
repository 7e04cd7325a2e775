"""The lock of a home: who has it, who waits for it, and who is interrupted by whom."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stack.config import PROJECT
from stack.installation import config_on_free_ports
from stack.lock import hold_lock
from stack.stack import Stack

#: Has the lock as the command that is its second argument, until it is asked to end.
HOLDER = """
import sys, threading, time
from pathlib import Path
from stack.interrupts import handle_interrupts
from stack.lock import hold_lock
ended = threading.Event()
handle_interrupts(ended.set)
with hold_lock(Path(sys.argv[1]), sys.argv[2], print, threading.Event()):
    print("locked", flush=True)
    ended.wait()
    print("interrupted", flush=True)
"""


@contextmanager
def running_holder(lock: Path, command: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock), command], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


class Waiting(list[str]):
    """The lines reported while waiting. The wait is interrupted once there are this many."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._lines = lines
        self.interrupted = threading.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        if len(self) == self._lines:
            self.interrupted.set()


@pytest.mark.parametrize(("command", "suspended"), [("down", False), ("down", True), ("reset", False)])
def test_down_and_reset_interrupt_a_running_up(tmp_path: Path, command: str, suspended: bool) -> None:
    """They ask it to end, wait until it has, and say so; an up that was suspended with Ctrl-Z continues and ends."""
    lines = Waiting(-1)
    with running_holder(tmp_path / "lock", "up") as up:
        if suspended:
            up.send_signal(signal.SIGSTOP)
        with hold_lock(tmp_path / "lock", command, lines, lines.interrupted):
            assert up.wait(30) == 0
    assert lines == [f"interrupting another up of this home (process {up.pid})"]


@pytest.mark.parametrize(("holder", "command"), [("up", "up"), ("reset", "down"), ("down", "up")])
def test_other_commands_are_waited_for(tmp_path: Path, holder: str, command: str) -> None:
    """Nothing but a running up is interrupted; the line says what is waited for, and the wait itself can be ended."""
    lines = Waiting(1)
    with running_holder(tmp_path / "lock", holder) as other:
        with pytest.raises(KeyboardInterrupt), hold_lock(tmp_path / "lock", command, lines, lines.interrupted):
            pass
        assert other.poll() is None
    assert lines == [f"waiting for another {holder} of this home (process {other.pid})"]


def test_a_process_that_reuses_the_id_of_an_up_is_left_alone(tmp_path: Path) -> None:
    """The file of the lock may be old: only the process that wrote it is interrupted."""
    lines = Waiting(1)
    lock = tmp_path / "lock"
    with running_holder(lock, "up") as other:
        lock.write_text(json.dumps({**json.loads(lock.read_text()), "mark": "boot/1"}))
        with pytest.raises(KeyboardInterrupt), hold_lock(lock, "down", lines, lines.interrupted):
            pass
        assert other.poll() is None


def test_a_released_lock_names_no_one(tmp_path: Path) -> None:
    """A demo goes on after its up: a later down must not take it for an up that is running."""
    lock = tmp_path / "lock"
    with hold_lock(lock, "up", print, threading.Event()):
        assert json.loads(lock.read_text())["command"] == "up"
    assert lock.read_text() == ""


def test_reset_has_the_lock_until_everything_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it deletes, no other command can start in the meantime; the file of the lock itself stays."""
    config = config_on_free_ports(tmp_path / "home")
    for folder in (config.data("kafka"), config.logs, config.run, config.home / "airflow"):
        folder.mkdir(parents=True)
    deleted: list[str] = []
    delete = shutil.rmtree

    def delete_while_locked(path: Path, **options: Any) -> None:
        lines = Waiting(1)
        with (
            pytest.raises(KeyboardInterrupt),
            hold_lock(config.home / "lock", "up", lines, lines.interrupted),
        ):
            pass
        deleted.append(path.name)
        delete(path, **options)

    monkeypatch.setattr(shutil, "rmtree", delete_while_locked)
    Stack(config, print).reset()
    assert sorted(deleted) == ["airflow", "data", "logs", "run"]
    assert [path.name for path in config.home.iterdir()] == ["lock"]
