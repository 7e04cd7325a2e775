"""What a machine must have before servers are started: the right Python, room, and free ports.

Each check answers with its problems as sentences that say what to do; no problem is an empty list.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

from include.errors import ConfigurationError
from stack.config import LocalConfig, is_free, port_setting
from stack.server import Server
from stack.servers import SERVERS

#: Bytes. Jars, engine and binaries take 0.6 GB, data and logs of the demo about 1.5 GB.
DISK_NEEDED = 3_000_000_000
#: Bytes for all servers with four task workers, as measured, with some room.
MEMORY_NEEDED = 4_500_000_000


def check_machine(config: LocalConfig, servers: list[Server]) -> None:
    """Raise ``ConfigurationError`` with all that stands in the way of starting these servers."""
    if not servers:
        return
    share = len(servers) / len(SERVERS)
    problems = [
        *python_problems(),
        *port_problems(config, servers),
        *disk_problems(config.home, int(DISK_NEEDED * max(share, 0.5))),
        *memory_problems(int(MEMORY_NEEDED * share)),
    ]
    if problems:
        raise ConfigurationError(f"the local servers cannot start here:\n{listed(problems)}")


def listed(problems: Iterable[str]) -> str:
    return "\n".join(f"  - {problem}" for problem in problems)


def python_problems() -> list[str]:
    if platform.python_version_tuple()[:2] == ("3", "12"):
        return []
    return [f"this is Python {platform.python_version()}, and the project is made for 3.12: see .python-version"]


def port_problems(config: LocalConfig, servers: Iterable[Server]) -> list[str]:
    taken = [(server, name) for server in servers for name in server.ports if not is_free(config.ports[name])]
    owners = _listeners() if taken else {}
    return [
        f"port {config.ports[name]} for {server.name} is taken{owners.get(config.ports[name], '')}: "
        f"stop that process, or set {port_setting(name)} to a free port"
        for server, name in taken
    ]


def _listeners() -> dict[int, str]:
    """Who listens where, as far as this user may know."""
    import psutil

    found = {}
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.status == psutil.CONN_LISTEN and connection.pid:
                name = psutil.Process(connection.pid).name()
                found[connection.laddr.port] = f" by process {connection.pid} ({name})"
    except psutil.Error:
        return {}
    return found


def disk_problems(folder: Path, needed: int) -> list[str]:
    place = existing(folder)
    free = shutil.disk_usage(place).free
    if free >= needed:
        return []
    found = f"{place} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed"
    return [f"{found}: make room, or set MILLRACE_HOME to a folder on another disk"]


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(part for part in (folder, *folder.parents) if part.exists())


def memory_problems(needed: int) -> list[str]:
    import psutil

    available = int(psutil.virtual_memory().available)
    if available >= needed:
        return []
    found = f"{available / 1e9:.1f} GB of memory are available and about {needed / 1e9:.1f} GB are needed"
    return [f"{found}: end other programs, or start fewer servers with --only"]
