"""Become a server: record the identity of this process, then ``exec``.

The supervisor runs ``python -I launch.py SPEC``, so that every start, including a restart after a crash, leaves a
record of its process id, group, session and start time. It runs at every start and must stay fast: psutil and the
standard library only. psutil is imported where it is needed, so that ``doctor`` works without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

#: Whatever a server writes is readable only by the user it runs as.
UMASK = 0o077


def process_fingerprint(pid: int) -> str | None:
    """Identifies the start of a running process: no later process with the same id has this mark. None: not running."""
    import psutil

    try:
        if psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return f"{_read_boot_id()}/{_read_start_ticks(pid)}"
    except (psutil.Error, ValueError):
        return None


def list_session_members(session: int) -> set[int]:
    """The ids of all running processes of a session."""
    import psutil

    members = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session and process_fingerprint(pid) is not None:
                members.add(pid)
    return members


def find_orphans(supervisor: int) -> set[int]:
    """The processes of the supervisor's session that do not descend from it: a crashed server left them behind."""
    import psutil

    # One snapshot for both questions. With two, a process forked in between would look like an orphan, and be killed.
    parents: dict[int, int] = {}
    members: set[int] = set()
    for process in psutil.process_iter(["ppid", "status"]):
        parents[process.pid] = process.info["ppid"]
        with contextlib.suppress(OSError):
            ended = process.info["status"] in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            if not ended and os.getsid(process.pid) == supervisor:
                members.add(process.pid)
    if supervisor not in members:
        return set()
    expected = {supervisor, os.getpid()}
    while children := {pid for pid, parent in parents.items() if parent in expected} - expected:
        expected |= children
    return members - expected


def kill_orphans() -> None:
    """Kill processes that a crashed server left behind, in the session of the supervisor that started this process."""
    supervisor = os.getsid(0)
    deadline = time.monotonic() + 5.0
    while (orphans := find_orphans(supervisor)) and time.monotonic() < deadline:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def write_record(path: Path, name: str) -> None:
    """Write the record of this process atomically: no reader sees half of it."""
    pid = os.getpid()
    record = {"name": name, "pid": pid, "pgid": os.getpgid(0), "sid": os.getsid(0), "mark": process_fingerprint(pid)}
    partial = path.with_name(f"{path.name}.{pid}.partial")
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(path)


def _read_start_ticks(pid: int) -> int:
    """The start time of a process in clock ticks, since boot on Linux and since 1970 elsewhere."""
    import psutil

    ticks = os.sysconf("SC_CLK_TCK")
    if sys.platform != "linux":
        return round(psutil.Process(pid).create_time() * ticks)
    # psutil adds the boot time, which moves whenever the clock is corrected. Subtract the same value again.
    while True:
        boot = psutil.boot_time()
        created = psutil.Process(pid).create_time()
        if psutil.boot_time() == boot:
            return round((created - boot) * ticks)


def _read_boot_id() -> str:
    # Process ids and start times since boot can repeat after a reboot.
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "boot"


def _switch_user(account: dict[str, object]) -> None:
    name, uid, gid = str(account["name"]), int(str(account["uid"])), int(str(account["gid"]))
    os.initgroups(name, gid)
    os.setgid(gid)
    os.setuid(uid)


def _raise_file_limit() -> None:
    # Kafka, Milvus and PostgreSQL each need more than the usual 1,024 open files.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < limit:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def main(arguments: list[str]) -> None:
    os.umask(UMASK)
    spec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    if spec["kill_orphans"]:
        kill_orphans()
    write_record(Path(spec["record"]), spec["name"])
    _raise_file_limit()
    os.chdir(spec["folder"])
    if spec["account"]:
        _switch_user(spec["account"])
    os.execve(spec["argv"][0], spec["argv"], spec["environment"])  # noqa: S606 (no shell is intended)


if __name__ == "__main__":
    main(sys.argv[1:])
