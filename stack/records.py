"""Which processes belong to a stack: by recorded id, group, session and start time, never by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from stack.launch import list_session_members, process_fingerprint

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
    start_id: str

    @property
    def alive(self) -> bool:
        """Whether the process still runs. A later process with the same id does not count."""
        return process_fingerprint(self.pid) == self.start_id

    def members(self) -> list[int]:
        """The running processes of its group. Empty once it has ended: an unrelated group may then have its id."""
        if not self.alive:
            return []
        group = [pid for pid in list_session_members(self.sid) if _find_group(pid) == self.pgid]
        return group or [self.pid]


def records_folder(run: Path) -> Path:
    """The folder of the records."""
    return run / "records"


def record_path(run: Path, name: str) -> Path:
    """The record of one process."""
    return records_folder(run) / f"{name}.json"


def read_record(run: Path, name: str) -> Record | None:
    """The record of a process; None if it was never started or its record is unreadable."""
    try:
        content = json.loads(record_path(run, name).read_text(encoding="utf-8"))
        return Record(
            name=str(content["name"]),
            pid=int(content["pid"]),
            pgid=int(content["pgid"]),
            sid=int(content["sid"]),
            start_id=str(content["mark"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def records_exist(run: Path) -> bool:
    """Whether anything was started that has not been stopped since. Works without psutil."""
    return any(records_folder(run).glob("*.json"))


def read_all(run: Path) -> list[Record]:
    """Every readable record."""
    names = sorted(entry.stem for entry in records_folder(run).glob("*.json"))
    return [record for name in names if (record := read_record(run, name)) is not None]


def delete_records(run: Path) -> None:
    """Delete all records. Call it only after the recorded processes have ended."""
    for entry in records_folder(run).glob("*"):
        entry.unlink(missing_ok=True)


def find_processes(run: Path) -> set[int]:
    """Every running process of a record: those of its group, and of its session, unless the session id has been reused.

    While a recorded process of the session is running, its id cannot have been reused: the kernel does not reuse a
    session id before all processes of the session have ended.
    """
    pids: set[int] = set()
    for record in read_all(run):
        if not record.alive:
            continue
        pids.update(record.members())
        if _find_session(record.pid) == record.sid:
            pids.update(list_session_members(record.sid))
    return pids - {os.getpid()}


def kill_tools(run: Path) -> None:
    """Kill the tools of an interrupted ``up``: the next ``up`` reruns them."""
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


def _find_group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _find_session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
