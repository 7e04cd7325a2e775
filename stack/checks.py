"""What a machine needs before servers can start: the right Python, disk space, memory and free ports.

Each check returns its problems as sentences that say what to do; an empty list means no problems.
"""

from __future__ import annotations

import errno
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
#: Bytes for all servers with four task workers: the measured value with some headroom.
MEMORY_NEEDED = 4_500_000_000
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
#: Bytes. With less, servers cannot write their logs and files any more.
_DISK_FULL = 20_000_000


def check_machine(config: LocalConfig, servers: list[Server]) -> None:
    """Raise ``ConfigurationError`` with every problem that prevents these servers from starting."""
    if not servers:
        return
    share = len(servers) / len(SERVERS)
    problems = [
        *check_python(),
        *check_ports(config, servers),
        *check_disk(config.home, int(DISK_NEEDED * max(share, 0.5))),
        *check_memory(int(MEMORY_NEEDED * share)),
    ]
    if problems:
        raise ConfigurationError(f"the local servers cannot start here:\n{format_list(problems)}")


def format_list(problems: Iterable[str]) -> str:
    """The problems as a bulleted list."""
    return "\n".join(f"  - {problem}" for problem in problems)


def check_python() -> list[str]:
    """Whether this is Python 3.12."""
    if platform.python_version_tuple()[:2] == ("3", "12"):
        return []
    return [f"this is Python {platform.python_version()}, but the project needs 3.12: see .python-version"]


def check_ports(config: LocalConfig, servers: Iterable[Server]) -> list[str]:
    """The ports of these servers that another process uses."""
    taken = [(server, name) for server in servers for name in server.ports if not is_free(config.ports[name])]
    owners = _find_listeners() if taken else {}
    return [
        f"port {config.ports[name]} for {server.name} is taken{owners.get(config.ports[name], '')}: "
        f"stop that process, or set {port_setting(name)} to a free port"
        for server, name in taken
    ]


def _find_listeners() -> dict[int, str]:
    """The process that listens on each port, as far as this user may see it and psutil is installed."""
    try:
        import psutil
    except ModuleNotFoundError:
        return {}
    listeners = {}
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.status == psutil.CONN_LISTEN and connection.pid:
                name = psutil.Process(connection.pid).name()
                listeners[connection.laddr.port] = f" by process {connection.pid} ({name})"
    except psutil.Error:
        return {}
    return listeners


def check_disk(folder: Path, needed: int) -> list[str]:
    """Whether the disk of this folder, which need not exist yet, has enough free space."""
    existing = nearest_existing_folder(folder)
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return []
    shortage = f"{existing} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed"
    return [f"{shortage}: free some space, or set MILLRACE_HOME to a folder on another disk"]


def check_not_full(config: LocalConfig) -> None:
    """Raise ``ConfigurationError`` if a disk is full: this explains whatever went wrong."""
    for folder, setting in _list_folders(config):
        if _read_free_space(folder) < _DISK_FULL:
            raise ConfigurationError(_describe_full_disk(folder, setting))


def describe_disk_error(config: LocalConfig, error: OSError) -> str | None:
    """A full disk, a read-only disk or a missing permission as a sentence that says what to do; None for the rest."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        # The error of a write does not say which file it was.
        return _describe_full_disk(*min(_list_folders(config), key=lambda pair: _read_free_space(pair[0])))
    if error.filename is None or error.errno not in _NOT_WRITABLE:
        return None
    path = Path(str(error.filename))
    inside = [pair for pair in _list_folders(config) if path.is_relative_to(pair[0]) or pair[0].is_relative_to(path)]
    _, setting = max(inside, key=lambda pair: len(pair[0].parts), default=(path, "MILLRACE_HOME"))
    return f"{path} cannot be written ({error.strerror}): make it writable, or set {setting} to another folder"


def _list_folders(config: LocalConfig) -> list[tuple[Path, str]]:
    """The folders that the stack writes to, with the setting of each."""
    return [(config.home, "MILLRACE_HOME"), (config.jar_cache, "MILLRACE_JAR_CACHE")]


def _read_free_space(folder: Path) -> int:
    return shutil.disk_usage(nearest_existing_folder(folder)).free


def _describe_full_disk(folder: Path, setting: str) -> str:
    return f"the disk of {folder} is full: free some space, or set {setting} to a folder on another disk"


def nearest_existing_folder(folder: Path) -> Path:
    """The folder itself, or its closest parent that exists."""
    return next(part for part in (folder, *folder.parents) if part.exists())


def check_memory(needed: int) -> list[str]:
    """Whether enough memory is available."""
    import psutil

    available = int(psutil.virtual_memory().available)
    if available >= needed:
        return []
    shortage = f"{available / 1e9:.1f} GB of memory are available, but about {needed / 1e9:.1f} GB are needed"
    return [f"{shortage}: close other programs, or start fewer servers with --only"]
