"""Ending servers: asked first, in order, then by SIGKILL; with or without a supervisor that still answers."""

from __future__ import annotations

import time
import xmlrpc.client
from collections.abc import Callable
from itertools import groupby

from stack import records
from stack.config import LocalConfig
from stack.server import Server
from stack.supervise import Supervisor, SupervisorSilentError

_OVER = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


class Stopper:
    """Ends processes of one home. Every wait is bounded; what does not end in time is killed."""

    def __init__(self, config: LocalConfig, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._config = config
        self._supervisor = supervisor
        self._say = say

    def stop(self, servers: list[Server]) -> None:
        """End these servers, those of a lower ``stop.order`` first, those of one order side by side."""
        for _, group in groupby(sorted(servers, key=_order), key=_order):
            running = [server for server in group if self._runs(server)]
            if not running:
                continue
            self._say(f"stopping {', '.join(server.name for server in running)}")
            try:
                self._ask_supervisor(running)
            except (SupervisorSilentError, xmlrpc.client.Error):
                self._ask_directly(running)

    def end_all(self) -> None:
        """End the supervisor and every process that a record names, then forget the records."""
        self._supervisor.shut_down(seconds=10)
        deadline = time.monotonic() + 10
        while (left := records.leftovers(self._config.run)) and time.monotonic() < deadline:
            records.kill(left)
            time.sleep(0.05)
        records.forget(self._config.run)
        self._supervisor.remove_socket()

    def _runs(self, server: Server) -> bool:
        record = records.read(self._config.run, server.name)
        return record is not None and (record.alive or self._supervisor.alive)

    def _ask_supervisor(self, servers: list[Server]) -> None:
        if not self._supervisor.alive:
            return self._ask_directly(servers)
        waiting = {server.name: server for server in servers}
        for name in waiting:
            self._supervisor.stop_server(name)
        deadline = time.monotonic() + 5 + max(server.stop.seconds for server in servers)
        while waiting and time.monotonic() < deadline:
            states = self._supervisor.states()
            waiting = {name: s for name, s in waiting.items() if name in states and states[name].state not in _OVER}
            time.sleep(0.1)
        return self._ask_directly(list(waiting.values()))

    def _ask_directly(self, servers: list[Server]) -> None:
        found = [(server, records.read(self._config.run, server.name)) for server in servers]
        for server, record in found:
            if record is not None:
                records.signal_process(record, server.stop.signum)
        for server, record in found:
            if record is not None and not records.wait_gone(record, server.stop.seconds):
                records.kill(set(record.members()))


def _order(server: Server) -> int:
    return server.stop.order
