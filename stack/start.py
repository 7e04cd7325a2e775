"""Starts servers in parallel: prepares them, starts them, waits until each is healthy, and reports progress."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from stack.config import LOOPBACK
from stack.listeners import reject_open_addresses
from stack.server import CancelledError, Context, Report, Server, ServerError, log_hint
from stack.supervise import Supervisor

#: Give up after this many processes have exited without becoming healthy.
_MAX_STARTS = 4
_REPORT_SECONDS = 5.0


class Starter:
    """Starts servers of one home, each as soon as the servers it needs are healthy."""

    def __init__(
        self, context: Context, supervisor: Supervisor, report: Report, interrupted: threading.Event | None = None
    ) -> None:
        self._context = context
        self._interrupted = interrupted or threading.Event()
        self._supervisor = supervisor
        self._report = report
        self._activities: dict[str, str] = {}
        self._healthy: dict[str, threading.Event] = {}

    def start(self, servers: list[Server]) -> None:
        """Return when all are healthy.

        If one fails, the others are cancelled, and its error is raised once they have stopped. Setting ``interrupted``
        cancels all of them and raises ``KeyboardInterrupt``.
        """
        self._healthy = {server.name: threading.Event() for server in servers}
        began = time.monotonic()
        with ThreadPoolExecutor(len(servers), thread_name_prefix="start") as pool:
            futures = [pool.submit(self._bring_up, server) for server in servers]
            try:
                self._wait_for_all(futures, began)
            finally:
                self._context.cancelled.set()
        self._report(f"{len(servers)} servers are up after {time.monotonic() - began:.0f} s")

    def _wait_for_all(self, futures: list[Future[None]], began: float) -> None:
        waiting = set(futures)
        next_report = began + _REPORT_SECONDS
        while waiting:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            # Short waits, so that the main thread can handle signals in between.
            done, waiting = wait(waiting, timeout=0.2)
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors:
                self._context.cancelled.set()
                wait(waiting)
                raise next((error for error in errors if not isinstance(error, CancelledError)), errors[0])
            if waiting and time.monotonic() >= next_report:
                self._report_activities(time.monotonic() - began)
                next_report += _REPORT_SECONDS

    def _report_activities(self, seconds: float) -> None:
        parts = [f"{name} ({activity})" for name, activity in list(self._activities.items())]
        self._report(f"  {seconds:4.0f} s  waiting for {', '.join(parts)}")

    def _bring_up(self, server: Server) -> None:
        context = replace(self._context, report_progress=lambda activity: self._set_activity(server, activity))
        began = time.monotonic()
        self._wait_for_needs(server)
        was_up = self._is_up(server)
        if not was_up:
            self._set_activity(server, "preparing")
            server.prepare(context)
            self._raise_if_cancelled(server)
            server.write_spec(context)
            self._supervisor.start_server(server.name)
        self._set_activity(server, "starting")
        self._wait_until_healthy(server, context)
        reject_open_addresses(context, server)
        self._activities.pop(server.name, None)
        self._healthy[server.name].set()
        result = "was already up" if was_up else f"up after {time.monotonic() - began:.1f} s"
        self._report(f"  {server.name:<14} {result}")

    def _wait_for_needs(self, server: Server) -> None:
        for need in server.needs:
            self._set_activity(server, f"needs {need}")
            while not self._healthy[need].wait(0.1):
                self._raise_if_cancelled(server)

    def _is_up(self, server: Server) -> bool:
        state = self._supervisor.states().get(server.name)
        return state is not None and state.up

    def _wait_until_healthy(self, server: Server, context: Context) -> None:
        deadline = time.monotonic() + server.start_timeout_seconds
        pids: set[int] = set()
        while (failure := self._check_health(server, context)) is not None:
            self._raise_if_cancelled(server)
            self._check_process(server, pids)
            if time.monotonic() > deadline:
                log = context.config.log(server.name)
                raise ServerError(
                    f"{server.name} does not respond after {server.start_timeout_seconds} s ({failure}). "
                    f"{log_hint(log)}"
                )
            self._context.cancelled.wait(0.25)

    def _check_health(self, server: Server, context: Context) -> str | None:
        """Returns None if the server is healthy, otherwise why not."""
        try:
            if server.main_port is not None:
                # A cheap check first: drivers are slow and noisy while nothing listens on the port.
                socket.create_connection((LOOPBACK, context.config.ports[server.main_port]), timeout=1).close()
            server.check_health(context)
        except Exception as exc:  # noqa: BLE001 - each driver has its own errors, and all of them mean: not yet
            return f"{type(exc).__name__}: {str(exc)[:200]}"
        return None

    def _check_process(self, server: Server, pids: set[int]) -> None:
        state = self._supervisor.states().get(server.name)
        if state is not None and state.pid:
            pids.add(state.pid)
        if state is None or state.state in ("FATAL", "EXITED", "STOPPED") or len(pids) >= _MAX_STARTS:
            log = self._context.config.log(server.name)
            raise ServerError(f"{server.name} keeps exiting while it starts. {log_hint(log)}")

    def _raise_if_cancelled(self, server: Server) -> None:
        if self._context.cancelled.is_set():
            raise CancelledError(server.name)

    def _set_activity(self, server: Server, activity: str) -> None:
        self._activities[server.name] = activity
