"""The lock of a home: ``up``, ``down`` and ``reset`` change it one at a time, across processes too.

The file names the command that has the lock, so that ``down`` and ``reset`` can interrupt a running ``up`` instead of
waiting for it. It is never deleted: a process that waits for a deleted file would not exclude anyone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from include.errors import ConfigurationError
from stack.launch import process_fingerprint
from stack.server import Report

#: An interrupted ``up`` stops what it started first, which takes at most about a minute.
_PATIENCE_S = 120
_UNKNOWN = "another up, down or reset of this home"


@dataclass(frozen=True)
class Holder:
    """The process that has the lock. ``mark`` identifies its start; empty unless the command is ``up``."""

    command: str
    pid: int
    mark: str

    def __str__(self) -> str:
        return f"another {self.command} of this home (process {self.pid})"

    @property
    def can_be_interrupted(self) -> bool:
        """Whether it is a running ``up`` of another process."""
        if self.command != "up" or self.pid == os.getpid():
            return False
        try:
            return process_fingerprint(self.pid) == self.mark
        except ModuleNotFoundError:
            # Without psutil there is no way to tell.
            return False

    def interrupt(self) -> None:
        """Ask it to stop what it started and to end, even if it was suspended with Ctrl-Z."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGTERM)
            os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def hold_lock(path: Path, command: str, report: Report, interrupted: threading.Event) -> Iterator[None]:
    """Have the lock during the block.

    While another command has it, wait, and say so; ``interrupted`` ends the wait with ``KeyboardInterrupt``.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, command, report, interrupted)
        try:
            _write_holder(descriptor, command)
            yield
        finally:
            # Before the lock is released: no other command may take this process for one that still has it.
            _write_holder(descriptor, None)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        # The disk may have become read-only while servers run. They have to be stopped all the same.
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY)
        raise


def _acquire(descriptor: int, path: Path, command: str, report: Report, interrupted: threading.Event) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    reported: set[str] = set()
    while not _try_to_lock(descriptor):
        if interrupted.is_set():
            raise KeyboardInterrupt
        holder = _read_holder(path)
        name = str(holder) if holder else _UNKNOWN
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{name} is still running: wait for it, or interrupt it with Ctrl-C")
        ends_it = command != "up" and holder is not None and holder.can_be_interrupted
        if name not in reported and (holder is not None or not reported):
            report(f"interrupting {name}" if ends_it else f"waiting for {name}")
            if holder is not None and ends_it:
                holder.interrupt()
        reported.add(name)
        time.sleep(0.1)


def _try_to_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(descriptor: int, command: str | None) -> None:
    """Write who has the lock, or that no one has it. Not possible on a full or read-only disk: others then wait."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        if command is not None:
            mark = process_fingerprint(os.getpid()) if command == "up" else None
            os.pwrite(descriptor, json.dumps(asdict(Holder(command, os.getpid(), mark or ""))).encode(), 0)


def _read_holder(path: Path) -> Holder | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Holder(str(content["command"]), int(content["pid"]), str(content["mark"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
