"""Where a local stack stores its files and which ports it listens on.

``LocalConfig`` only holds the values; ``stack.installation`` reads them from the environment.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from include.errors import ConfigurationError
from include.settings_parser import PREFIX

#: The project folder, which contains ``include/``, ``dags/`` and ``airflow_settings.yaml``.
PROJECT = Path(__file__).resolve().parents[1]

#: Where the stack is unless ``MILLRACE_HOME`` says otherwise. The demo's home is inside.
DEFAULT_HOME = (PROJECT / ".local").resolve()

LOOPBACK = "127.0.0.1"
PORT_PREFIX = PREFIX + "PORT_"
HEAP_PREFIX = PREFIX + "HEAP_"

#: Below Linux's ephemeral range, so no outgoing connection can take such a port while a server restarts.
_FREE_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class LocalConfig:
    """The configuration of one local stack. Two stacks need different homes and different ports.

    ``extra_environment`` is added to the environment of Millrace's own servers and of Airflow, and overrides what the
    stack sets there.
    """

    home: Path
    ports: Mapping[str, int]
    heaps: Mapping[str, str]
    jar_cache: Path = DEFAULT_HOME / "jars"
    shards: int = 4
    parallelism: int = 4
    dags_folder: Path = PROJECT / "dags"
    plugins_folder: Path = PROJECT / "plugins"
    postgres_user: str = ""
    allow_open_ports: bool = False
    extra_environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def demo(self) -> LocalConfig:
        """The demo's stack: a home inside this one, on the same ports."""
        return replace(self, home=self.home / "demo")

    @property
    def client_variables(self) -> dict[str, str]:
        """The variables that every client needs, whichever servers it uses."""
        return {
            "MILLRACE_HOME": str(self.home),
            "MILLRACE_BATCH_PATH": self.batches.as_uri(),
            "MILLRACE_SHARDS": str(self.shards),
        }

    def address(self, port: str) -> str:
        """``127.0.0.1:<port>``."""
        return f"{LOOPBACK}:{self.ports[port]}"

    def data(self, server: str) -> Path:
        """The folder of a server's persistent data."""
        return self.home / "data" / server

    @property
    def run(self) -> Path:
        """Process records, generated configuration and the supervisor's socket: worthless once everything is down."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """The folder of the servers' log files."""
        return self.home / "logs"

    def log(self, server: str) -> Path:
        """The log file of one server."""
        return self.logs / f"{server}.log"

    @property
    def batches(self) -> Path:
        """The folder in which tasks pass rows and vectors to each other."""
        return self.data("batches")


def port_setting(name: str) -> str:
    """The environment variable that sets this port."""
    return PORT_PREFIX + name.upper()


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As servers do: connections of a stack that has just stopped must not make the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def find_free_ports(count: int) -> list[int]:
    """``count`` consecutive free ports at a random position, so that two callers rarely collide."""
    starts = list(range(_FREE_PORTS.start, _FREE_PORTS.stop - count, count))
    random.shuffle(starts)
    for start in starts:
        block = list(range(start, start + count))
        if all(is_free(port) for port in block):
            return block
    raise ConfigurationError(
        f"no {count} consecutive free ports between {_FREE_PORTS.start} and {_FREE_PORTS.stop}: stop some servers"
    )


def display_path(path: Path) -> str:
    """The path relative to the current folder where possible, as a user would type it."""
    current = Path.cwd()
    return str(path.relative_to(current)) if path.is_relative_to(current) else str(path)
