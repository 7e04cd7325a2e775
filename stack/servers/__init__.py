"""Every local server. To add one, add a file to this folder that declares it in ``SERVERS``; nothing else changes."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterable

from include.errors import ConfigurationError
from stack.server import Server


def order_servers(servers: Iterable[Server]) -> tuple[Server, ...]:
    """The servers by priority. Raises ``ConfigurationError`` for declarations that contradict each other."""
    ordered = tuple(sorted(servers, key=lambda server: (server.priority, server.name)))
    names = [server.name for server in ordered]
    _reject_duplicates("the name", names)
    _reject_duplicates("the port name", [name for server in ordered for name in server.ports])
    _reject_duplicates("the default port", [port for server in ordered for port in server.ports.values()])
    _reject_duplicates("the secret", [name for server in ordered for name in server.secrets])
    for server in ordered:
        for need in server.needs:
            if need not in names:
                raise ConfigurationError(f"{server.name} needs {need!r}, which no file in stack/servers declares")
    return ordered


def choose(names: Iterable[str] | None) -> list[Server]:
    """The servers of these names and the servers they need, by priority; all of them for ``None``."""
    if names is None:
        return list(SERVERS)
    by_name = {server.name: server for server in SERVERS}
    chosen: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in by_name:
            raise ConfigurationError(f"unknown server {name!r}; choose from: {', '.join(by_name)}")
        if name not in chosen:
            chosen.add(name)
            pending.extend(by_name[name].needs)
    return [server for server in SERVERS if server.name in chosen]


def _discover() -> Iterable[Server]:
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        if not hasattr(module, "SERVERS"):
            raise ConfigurationError(f"{module.__file__} does not declare SERVERS: a tuple of the servers in this file")
        yield from module.SERVERS


def _reject_duplicates(what: str, values: Iterable[object]) -> None:
    duplicates = [value for value, count in Counter(values).items() if count > 1]
    if duplicates:
        raise ConfigurationError(f"two servers in stack/servers declare {what} {duplicates[0]!r}: change one")


SERVERS: tuple[Server, ...] = order_servers(_discover())
