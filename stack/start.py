"""Bringing servers up side by side: prepare, start, ask until each one answers, and say what is waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from stack.config import LOOPBACK
from stack.server import CancelledError, Context, Server, ServerError, log_hint
from stack.supervise import Supervisor

#: As many starts again, while its first answer is waited for, mean that a server will not come up.
_TOO_MANY_STARTS = 4
_REPORT_SECONDS = 5.0


class Starter:
    """Starts servers of one home, each as soon as those it needs answer."""

    def __init__(self, context: Context, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._context = context
        self._supervisor = supervisor
        self._say = say
        self._activity: dict[str, str] = {}
        self._answering: dict[str, threading.Event] = {}

    def start(self, servers: list[Server]) -> None:
        """Return when all answer. The first failure cancels the others and is raised once they have given up."""
        self._answering = {server.name: threading.Event() for server in servers}
        began = time.monotonic()
        with ThreadPoolExecutor(len(servers), thread_name_prefix="start") as pool:
            futures = [pool.submit(self._bring_up, server) for server in servers]
            try:
                self._watch(futures, began)
            finally:
                self._context.cancelled.set()
        self._say(f"{len(servers)} servers answer after {time.monotonic() - began:.0f} s")

    def _watch(self, futures: list[Future[None]], began: float) -> None:
        waiting = set(futures)
        next_report = began + _REPORT_SECONDS
        while waiting:
            # A short wait: a signal must find the main thread between two of them.
            done, waiting = wait(waiting, timeout=0.2)
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors:
                self._context.cancelled.set()
                wait(waiting)
                raise next((error for error in errors if not isinstance(error, CancelledError)), errors[0])
            if waiting and time.monotonic() >= next_report:
                self._report(time.monotonic() - began)
                next_report += _REPORT_SECONDS

    def _report(self, seconds: float) -> None:
        parts = [f"{name} ({doing})" for name, doing in list(self._activity.items())]
        self._say(f"  {seconds:4.0f} s  waiting for {', '.join(parts)}")

    def _bring_up(self, server: Server) -> None:
        context = replace(self._context, note=lambda doing: self._note(server, doing))
        began = time.monotonic()
        self._wait_for_needs(server)
        was_up = self._is_up(server)
        if not was_up:
            self._note(server, "preparing")
            server.prepare(context)
            self._give_up_if_cancelled(server)
            server.write_spec(context)
            self._supervisor.start_server(server.name)
        self._note(server, "starting")
        self._wait_for_answer(server, context)
        self._activity.pop(server.name, None)
        self._answering[server.name].set()
        took = "was up already" if was_up else f"up after {time.monotonic() - began:.1f} s"
        self._say(f"  {server.name:<14} {took}")

    def _wait_for_needs(self, server: Server) -> None:
        for need in server.needs:
            self._note(server, f"needs {need}")
            while not self._answering[need].wait(0.1):
                self._give_up_if_cancelled(server)

    def _is_up(self, server: Server) -> bool:
        state = self._supervisor.states().get(server.name)
        return state is not None and state.up

    def _wait_for_answer(self, server: Server, context: Context) -> None:
        deadline = time.monotonic() + server.start_seconds
        pids: set[int] = set()
        while True:
            last = self._ask(server, context)
            if last is None:
                return
            self._give_up_if_cancelled(server)
            self._check_alive(server, pids)
            if time.monotonic() > deadline:
                log = context.config.log(server.name)
                raise ServerError(
                    f"{server.name} does not answer after {server.start_seconds} s ({last}). {log_hint(log)}"
                )
            self._context.cancelled.wait(0.25)

    def _ask(self, server: Server, context: Context) -> str | None:
        """None when it answers, else why not."""
        try:
            for port in server.ports[:1]:
                # Cheap, and drivers are loud and slow about a port that nobody listens on yet.
                socket.create_connection((LOOPBACK, context.config.ports[port]), timeout=1).close()
            server.answers(context)
        except Exception as exc:  # noqa: BLE001 - each driver has errors of its own, and all mean: not yet
            return f"{type(exc).__name__}: {str(exc)[:200]}"
        return None

    def _check_alive(self, server: Server, pids: set[int]) -> None:
        state = self._supervisor.states().get(server.name)
        if state is not None and state.pid:
            pids.add(state.pid)
        if state is None or state.state in ("FATAL", "EXITED", "STOPPED") or len(pids) >= _TOO_MANY_STARTS:
            log = self._context.config.log(server.name)
            raise ServerError(f"{server.name} ends again and again while it starts. {log_hint(log)}")

    def _give_up_if_cancelled(self, server: Server) -> None:
        if self._context.cancelled.is_set():
            raise CancelledError(server.name)

    def _note(self, server: Server, doing: str) -> None:
        self._activity[server.name] = doing
