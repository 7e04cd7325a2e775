"""Which processes are ours: by recorded session, group and start time, never by name."""

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
#: Ends the name of a process that prepares a server and then ends by itself.
TOOL = ".tool"


@dataclass(frozen=True)
class Record:
    """One process as ``launch.py`` wrote it down before it became the server."""

    name: str
    pid: int
    pgid: int
    sid: int
    mark: str

    @property
    def alive(self) -> bool:
        """False when the process has ended, also when another one has got its number since."""
        return start_mark(self.pid) == self.mark

    def members(self) -> list[int]:
        """The running processes of its group; empty once the group cannot be told from a stranger's."""
        if not self.alive:
            return []
        group = [pid for pid in session_members(self.sid) if _group(pid) == self.pgid]
        return group or [self.pid]


def folder(run: Path) -> Path:
    return run / "records"


def path(run: Path, name: str) -> Path:
    return folder(run) / f"{name}.json"


def read(run: Path, name: str) -> Record | None:
    """None for a process that was never started, or whose record cannot be read."""
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
    names = sorted(entry.stem for entry in folder(run).glob("*.json")) if folder(run).is_dir() else []
    return [record for name in names if (record := read(run, name)) is not None]


def forget(run: Path) -> None:
    """Remove the records; call it once nothing of theirs runs."""
    for entry in folder(run).glob("*"):
        entry.unlink(missing_ok=True)


def leftovers(run: Path) -> set[int]:
    """Every running process that belongs to a recorded one: its session when that is ours, else its group.

    A session is ours when a recorded process in it still runs: Linux gives a session's number to nobody else
    for as long as one process of it lives.
    """
    found: set[int] = set()
    for record in read_all(run):
        if not record.alive:
            continue
        found.update(record.members())
        if _session(record.pid) == record.sid:
            found.update(session_members(record.sid))
    return found - {os.getpid()}


def end_tools(run: Path) -> None:
    """End what still prepares a server for an ``up`` that was killed: the next one prepares it again."""
    for record in read_all(run):
        if record.name.endswith(TOOL):
            kill(set(record.members()))
            wait_gone(record, 5)


def signal_process(record: Record, signum: int) -> None:
    """Send a signal to the recorded process, and to no other that may have its number now."""
    if record.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signum)


def wait_gone(record: Record, seconds: float) -> bool:
    """Whether the process ended in time."""
    deadline = time.monotonic() + seconds
    while record.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill(pids: set[int]) -> None:
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
