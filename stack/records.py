"""Which processes belong to a stack: by recorded id, group, session and start time, never by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from stack.launch import session_members, start_mark

SUPERVISOR = "supervisord"
#: Suffix of the record of a tool: a process that prepares a server and then exits.
TOOL = ".tool"


@dataclass(frozen=True)
class Record:
    """One process, as ``launch.py`` recorded it before it became the server."""

    name: str
    pid: int
    pgid: int
    sid: int
    mark: str

    @property
    def alive(self) -> bool:
        """Whether the process still runs. A later process with the same id does not count."""
        return start_mark(self.pid) == self.mark

    def members(self) -> list[int]:
        """The running processes of its group. Empty after it has ended: the group may then belong to a stranger."""
        if not self.alive:
            return []
        group = [pid for pid in session_members(self.sid) if _group(pid) == self.pgid]
        return group or [self.pid]


def folder(run: Path) -> Path:
    """The folder of the records."""
    return run / "records"


def path(run: Path, name: str) -> Path:
    """The record of one process."""
    return folder(run) / f"{name}.json"


def read(run: Path, name: str) -> Record | None:
    """The record of a process; None if it was never started or its record is unreadable."""
    try:
        content = json.loads(path(run, name).read_text(encoding="utf-8"))
        return Record(
            name=str(content["name"]),
            pid=int(content["pid"]),
            pgid=int(content["pgid"]),
            sid=int(content["sid"]),
            mark=str(content["mark"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_all(run: Path) -> list[Record]:
    """Every readable record."""
    names = sorted(entry.stem for entry in folder(run).glob("*.json")) if folder(run).is_dir() else []
    return [record for name in names if (record := read(run, name)) is not None]


def delete_records(run: Path) -> None:
    """Delete all records. Call it only after the recorded processes have ended."""
    for entry in folder(run).glob("*"):
        entry.unlink(missing_ok=True)


def find_processes(run: Path) -> set[int]:
    """Every running process that belongs to a record: those of its group, and of its session if that is still its own.

    A session is its own as long as a recorded process in it runs: the kernel does not reuse a session id while any
    process of the session is alive.
    """
    pids: set[int] = set()
    for record in read_all(run):
        if not record.alive:
            continue
        pids.update(record.members())
        if _session(record.pid) == record.sid:
            pids.update(session_members(record.sid))
    return pids - {os.getpid()}


def kill_tools(run: Path) -> None:
    """Kill the tools of an ``up`` that was killed itself: the next one runs them again."""
    for record in read_all(run):
        if record.name.endswith(TOOL):
            kill(set(record.members()))
            wait_until_gone(record, 5)


def signal_process(record: Record, signum: int) -> None:
    """Send a signal to the recorded process, never to a later process with the same id."""
    if record.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signum)


def wait_until_gone(record: Record, seconds: float) -> bool:
    """Wait for the process to end. Returns whether it ended in time."""
    deadline = time.monotonic() + seconds
    while record.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill(pids: set[int]) -> None:
    """Send SIGKILL to each of these processes."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
