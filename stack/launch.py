"""Become a server: write down which process this is, then ``exec``.

``python -I -S launch.py SPEC`` is what the supervisor runs, so every start, also one after a crash, leaves a record
that names its process group, its session and its start time. Standard library only: it must cost milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path


def start_mark(pid: int) -> str | None:
    """When this process began, in a form that no later process with its number can have. None: it is not running."""
    stat = _stat(pid)
    if stat is None:
        return None if sys.platform == "linux" else _mark_by_ps(pid)
    if stat[0] == "Z":
        return None
    return f"{_boot_id()}/{stat[19]}"


def session_members(sid: int) -> dict[int, int]:
    """Every running process of a session with its parent, by number. Linux only: elsewhere it is empty."""
    members: dict[int, int] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        stat = _stat(int(entry)) if entry.isdecimal() else None
        if stat is not None and stat[0] not in "ZX" and int(stat[3]) == sid:
            members[int(entry)] = int(stat[1])
    return members


def end_orphans() -> None:
    """End what a crashed server left in the supervisor's session: processes that no longer descend from it."""
    sid = os.getsid(0)
    deadline = time.monotonic() + 5.0
    while orphans := _orphans(session_members(sid), sid):
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _orphans(members: dict[int, int], supervisor: int) -> list[int]:
    if supervisor not in members:
        return []
    known = {supervisor, os.getpid()}
    grown = True
    while grown:
        children = {pid for pid, parent in members.items() if parent in known} - known
        grown = bool(children)
        known |= children
    return [pid for pid in members if pid not in known]


def write_record(path: Path, name: str) -> None:
    """Whole or not at all: a reader never sees half a record."""
    pid = os.getpid()
    record = {"name": name, "pid": pid, "pgid": os.getpgid(0), "sid": os.getsid(0), "mark": start_mark(pid)}
    partial = path.with_name(f"{path.name}.{pid}.partial")
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(path)


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on: 0 state, 1 parent, 2 group, 3 session, 19 start time."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "boot"


def _mark_by_ps(pid: int) -> str | None:
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _become(account: dict[str, object]) -> None:
    name, uid, gid = str(account["name"]), int(str(account["uid"])), int(str(account["gid"]))
    os.initgroups(name, gid)
    os.setgid(gid)
    os.setuid(uid)


def _open_files() -> None:
    # Kafka, Milvus and PostgreSQL each want more than the usual 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: list[str]) -> None:
    spec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    if spec["clears_orphans"]:
        end_orphans()
    write_record(Path(spec["record"]), spec["name"])
    _open_files()
    os.chdir(spec["folder"])
    if spec["account"]:
        _become(spec["account"])
    os.execve(spec["argv"][0], spec["argv"], spec["environment"])


if __name__ == "__main__":
    main(sys.argv[1:])
