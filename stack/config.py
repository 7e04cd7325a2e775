"""Where the local stack lives and listens: one setting each, read once from a mapping.

Every port is ``MILLRACE_PORT_<NAME>``, every heap ``MILLRACE_HEAP_<NAME>`` (``256m``, ``1g``), the folder
``MILLRACE_HOME``, the jars ``MILLRACE_JAR_CACHE``.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from include.errors import ConfigurationError

#: The folder that holds ``include/``, ``dags/`` and ``airflow_settings.yaml``.
PROJECT = Path(__file__).resolve().parents[1]

LOOPBACK = "127.0.0.1"

#: Defaults keep off the usual ports, so that a real server on this machine is not in the way.
DEFAULT_PORTS: Mapping[str, int] = {
    "kafka": 19092,
    "kafka_controller": 19093,
    "mongo": 17017,
    "milvus": 19630,
    "milvus_internal": 19631,
    "milvus_etcd": 19632,
    "milvus_etcd_peer": 19633,
    "milvus_metrics": 19634,
    "milvus_root_coord": 19635,
    "milvus_query_coord": 19636,
    "milvus_query_node": 19637,
    "milvus_index_node": 19638,
    "milvus_data_coord": 19639,
    "milvus_data_node": 19640,
    "neo4j": 17687,
    "postgres": 15432,
    "redis": 16379,
    "embed": 18090,
    "airflow": 18080,
    "reader": 18000,
}

DEFAULT_HEAPS: Mapping[str, str] = {"kafka": "320m", "mongo": "384m", "neo4j": "512m"}

#: Below Linux's range for outgoing connections: nothing can take such a port between two starts of a server.
_FREE_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class LocalConfig:
    """Everything that tells one local stack from another. Two stacks need two homes and two sets of ports."""

    home: Path
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))
    heaps: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_HEAPS))
    jar_cache: Path = PROJECT / ".local" / "jars"
    shards: int = 4
    parallelism: int = 4
    dags_folder: Path = PROJECT / "dags"
    plugins_folder: Path = PROJECT / "plugins"
    postgres_user: str = ""
    #: Added to the environment of every server of ours and of Airflow's: it wins over what the stack sets.
    extra_environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_env(cls, environment: Mapping[str, str], home: Path | None = None) -> LocalConfig:
        """Raises ``ConfigurationError`` naming the first variable that is wrong, or a port given twice."""
        folder = home or Path(environment.get("MILLRACE_HOME") or PROJECT / ".local")
        ports = {name: _port(environment, name, default) for name, default in DEFAULT_PORTS.items()}
        _refuse_twice(ports)
        return cls(
            home=folder.expanduser().resolve(),
            ports=ports,
            heaps={name: _heap(environment, name, default) for name, default in DEFAULT_HEAPS.items()},
            jar_cache=_folder(environment, "MILLRACE_JAR_CACHE", PROJECT / ".local" / "jars"),
            shards=_whole(environment, "MILLRACE_SHARDS", 4, 1, 4096),
            parallelism=_whole(environment, "MILLRACE_PARALLELISM", 4, 1, 64),
            dags_folder=_folder(environment, "MILLRACE_DAGS_FOLDER", PROJECT / "dags"),
            plugins_folder=_folder(environment, "MILLRACE_PLUGINS_FOLDER", PROJECT / "plugins"),
            postgres_user=environment.get("MILLRACE_POSTGRES_USER", ""),
        )

    @classmethod
    def with_free_ports(
        cls,
        home: Path,
        environment: Mapping[str, str] | None = None,
        extra_environment: Mapping[str, str] | None = None,
    ) -> LocalConfig:
        """A stack beside any other: every port is free now and stays off the range of outgoing connections."""
        chosen = free_ports(len(DEFAULT_PORTS))
        base = cls.from_env({k: v for k, v in (environment or {}).items() if not k.startswith(PORT_PREFIX)}, home)
        return cls(
            **{
                **base.__dict__,
                "ports": dict(zip(DEFAULT_PORTS, chosen, strict=True)),
                "extra_environment": dict(extra_environment or {}),
            }
        )

    @property
    def demo(self) -> LocalConfig:
        """The demo's stack: another one, in a folder of this home, on the same ports."""
        return replace(self, home=self.home / "demo")

    def address(self, port: str) -> str:
        """``127.0.0.1:<port>``."""
        return f"{LOOPBACK}:{self.ports[port]}"

    def data(self, server: str) -> Path:
        """Where a server keeps what it must find again."""
        return self.home / "data" / server

    @property
    def run(self) -> Path:
        """Process records, generated configuration, the supervisor's socket: of no value once all is stopped."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def log(self, server: str) -> Path:
        return self.logs / f"{server}.log"

    @property
    def batches(self) -> Path:
        """Where tasks leave rows and vectors for each other."""
        return self.data("batches")


PORT_PREFIX = "MILLRACE_PORT_"
HEAP_PREFIX = "MILLRACE_HEAP_"


def port_setting(name: str) -> str:
    return PORT_PREFIX + name.upper()


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # Servers set this too: connections of a stack that has just stopped must not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """``count`` ports in a row that are free now, at a random place: two callers seldom meet."""
    starts = list(range(_FREE_PORTS.start, _FREE_PORTS.stop - count, count))
    random.shuffle(starts)
    for start in starts:
        block = list(range(start, start + count))
        if all(is_free(port) for port in block):
            return block
    raise ConfigurationError(
        f"no {count} free ports in a row from {_FREE_PORTS.start} to {_FREE_PORTS.stop}: stop some servers"
    )


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    return _whole(environment, port_setting(name), default, 1, 65535)


def _heap(environment: Mapping[str, str], name: str, default: str) -> str:
    text = environment.get(HEAP_PREFIX + name.upper()) or default
    if not re.fullmatch(r"[1-9][0-9]*[mgMG]", text):
        raise ConfigurationError(f"{HEAP_PREFIX}{name.upper()} is {text!r}; it must look like 256m or 1g")
    return text.lower()


def _folder(environment: Mapping[str, str], setting: str, default: Path) -> Path:
    return Path(environment.get(setting) or default).expanduser().resolve()


def _whole(environment: Mapping[str, str], setting: str, default: int, least: int, most: int) -> int:
    text = environment.get(setting) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ConfigurationError(f"{setting} is {text!r}; it must be a whole number from {least} to {most}")
    return int(text)


def _refuse_twice(ports: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port in seen:
            raise ConfigurationError(f"{port_setting(name)} and {port_setting(seen[port])} are both {port}: change one")
        seen[port] = name


def near(path: Path) -> str:
    """The path as one types it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
