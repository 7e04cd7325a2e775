"""Stops servers in order: with a signal first, then SIGKILL. Works whether or not the supervisor still responds."""

from __future__ import annotations

import time
import xmlrpc.client
from itertools import groupby

from stack import records
from stack.config import LocalConfig
from stack.server import Report, Server
from stack.supervise import Supervisor, SupervisorUnreachableError

_STOPPED_STATES = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


class Stopper:
    """Stops processes of one home. Every wait is bounded, and processes that do not stop in time are killed."""

    def __init__(self, config: LocalConfig, supervisor: Supervisor, report: Report) -> None:
        self._config = config
        self._supervisor = supervisor
        self._report = report

    def stop(self, servers: list[Server]) -> None:
        """Stop these servers, lower ``stop.order`` first, those of the same order in parallel."""
        for _, group in groupby(sorted(servers, key=_order), key=_order):
            active = self._find_active()
            running = [server for server in group if self._runs(server, active)]
            if not running:
                continue
            self._report(f"stopping {', '.join(server.name for server in running)}")
            try:
                self._stop_by_supervisor(running)
            except (SupervisorUnreachableError, xmlrpc.client.Error):
                self._stop_directly(running)

    def stop_everything_else(self) -> None:
        """Stop the supervisor, kill every process that belongs to a record, then delete the records."""
        self._supervisor.shut_down(seconds=10)
        deadline = time.monotonic() + 10
        while (pids := records.find_processes(self._config.run)) and time.monotonic() < deadline:
            records.kill(pids)
            time.sleep(0.05)
        records.delete_records(self._config.run)
        self._supervisor.remove_socket()

    def _find_active(self) -> set[str]:
        """What the supervisor runs or is about to start again: such a server may have no record of a process yet."""
        try:
            states = self._supervisor.states()
        except (SupervisorUnreachableError, xmlrpc.client.Error):
            return set()
        return {name for name, state in states.items() if state.state not in _STOPPED_STATES}

    def _runs(self, server: Server, active: set[str]) -> bool:
        record = records.read_record(self._config.run, server.name)
        return server.name in active or (record is not None and record.alive)

    def _stop_by_supervisor(self, servers: list[Server]) -> None:
        if not self._supervisor.alive:
            return self._stop_directly(servers)
        stopping = {server.name: server for server in servers}
        for name in stopping:
            self._supervisor.stop_server(name)
        deadline = time.monotonic() + 5 + max(server.stop.timeout_seconds for server in servers)
        while stopping and time.monotonic() < deadline:
            states = self._supervisor.states()
            stopping = {
                name: server
                for name, server in stopping.items()
                if name in states and states[name].state not in _STOPPED_STATES
            }
            time.sleep(0.1)
        return self._stop_directly(list(stopping.values()))

    def _stop_directly(self, servers: list[Server]) -> None:
        recorded = [(server, records.read_record(self._config.run, server.name)) for server in servers]
        for server, record in recorded:
            if record is not None:
                records.signal_process(record, server.stop.signum)
        for server, record in recorded:
            if record is not None and not records.wait_until_gone(record, server.stop.timeout_seconds):
                records.kill(set(record.members()))


def _order(server: Server) -> int:
    return server.stop.order
