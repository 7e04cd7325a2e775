"""What a machine must have before servers are started: the right Python, room, and free ports."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from include.errors import ConfigurationError
from include.local.config import LocalConfig, is_free, port_setting
from include.local.server import Server

#: Bytes. The demo's data and logs take under 2 GB, all servers together under 5 GB of memory.
DISK_NEEDED = 3_000_000_000
MEMORY_NEEDED = 4_500_000_000


def check_machine(config: LocalConfig, servers: list[Server]) -> None:
    """Raise ``ConfigurationError`` with all that stands in the way of starting these servers."""
    if not servers:
        return
    share = len(servers) / 12
    problems = [
        *python_problems(),
        *port_problems(config, servers),
        *disk_problems(config.home, int(DISK_NEEDED * max(share, 0.5))),
        *memory_problems(int(MEMORY_NEEDED * share)),
    ]
    if problems:
        raise ConfigurationError("the local servers cannot start here:\n" + "\n".join(f"  - {p}" for p in problems))


def python_problems() -> list[str]:
    if sys.version_info[:2] == (3, 12):
        return []
    return [f"this is Python {sys.version.split()[0]}, and the project is made for 3.12: see .python-version"]


def port_problems(config: LocalConfig, servers: list[Server]) -> list[str]:
    taken = [(server, name) for server in servers for name in server.ports if not is_free(config.ports[name])]
    return [
        f"port {config.ports[name]} for {server.name} is taken{_owner(config.ports[name])}: "
        f"stop that process, or set {port_setting(name)} to a free port"
        for server, name in taken
    ]


def _owner(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return ""


def disk_problems(folder: Path, needed: int) -> list[str]:
    place = next(part for part in (folder, *folder.parents) if part.exists())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return []
    found = f"{place} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed"
    return [f"{found}: make room, or set MILLRACE_HOME to a folder on another disk"]


def memory_problems(needed: int) -> list[str]:
    import psutil

    available = int(psutil.virtual_memory().available)
    if available >= needed:
        return []
    found = f"{available / 1e9:.1f} GB of memory are available and about {needed / 1e9:.1f} GB are needed"
    return [f"{found}: end other programs, or start fewer servers with --only"]
