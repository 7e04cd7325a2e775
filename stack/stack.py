"""All local servers as a unit: start, stop and status."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from include.errors import ConfigurationError
from stack import records
from stack.checks import check_machine
from stack.config import LocalConfig
from stack.credentials import Secrets
from stack.installation import build_context, client_environment, create_folders, load_secrets
from stack.private import private_umask
from stack.server import Context, Report, Server
from stack.servers import SERVERS, choose, postgres
from stack.start import Starter
from stack.status import ServerStatus, read_statuses
from stack.stop import Stopper
from stack.supervise import Supervisor


@dataclass(frozen=True)
class Stack:
    """The local servers of one home. ``report`` gets a line for the user at every step.

    ``up``, ``down`` and ``reset`` exclude each other, across processes too. As a context manager it stops the servers
    on exit.
    """

    config: LocalConfig
    report: Report = print

    def up(self, names: Iterable[str] | None = None) -> None:
        """Start these servers and the servers they need (all by default); return when each one is healthy.

        Servers that are already up stay untouched. If one fails, or on Ctrl-C, everything that this call started is
        stopped before the error is raised.
        """
        servers = choose(names)
        with self._exclusive():
            supervisor = Supervisor(self.config)
            if not supervisor.alive and (pids := records.find_processes(self.config.run)):
                self.report(f"stopping {len(pids)} processes left by a killed supervisor")
                self._stop_everything()
            records.kill_tools(self.config.run)
            before = {name for name, state in supervisor.states().items() if state.up}
            context = build_context(self.config)
            self._reject_changed_settings(context, [server for server in servers if server.name in before])
            check_machine(self.config, [server for server in servers if server.name not in before])
            try:
                if not supervisor.alive:
                    supervisor.start(list(SERVERS))
                Starter(context, supervisor, self.report).start(servers)
            except BaseException:
                self.report("stopping what was started ...")
                stopper = self._stopper()
                stopper.stop([server for server in SERVERS if server.name not in before])
                if not before:
                    stopper.stop_everything_else()
                raise

    def down(self) -> bool:
        """Stop every process of this home, whoever started it. Returns whether anything had been started.

        Needs no package unless something had been.
        """
        if not self.config.run.exists():
            return False
        with self._exclusive():
            started = records.records_exist(self.config.run)
            self._stop_everything()
            return started

    def status(self) -> list[ServerStatus]:
        """The status of each server by priority, with a health check made now."""
        return read_statuses(build_context(self.config), Supervisor(self.config).states(), SERVERS)

    def environment(self) -> dict[str, str]:
        """The variables that a client of these servers needs."""
        return client_environment(self.config)

    @property
    def secrets(self) -> Secrets:
        """The secrets of this home; missing ones are generated."""
        return load_secrets(self.config)

    def reset(self) -> None:
        """Stop everything and delete the data, logs and state of this home. Downloads and secrets stay."""
        self.down()
        with self._exclusive():
            for path in self._state_folders():
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.config.run, ignore_errors=True)

    def has_state(self) -> bool:
        """Whether there is anything for ``reset`` to stop or delete."""
        return any(path.exists() for path in (self.config.run, *self._state_folders()))

    def _state_folders(self) -> list[Path]:
        home = self.config.home
        return [home / "data", home / "logs", home / "airflow", postgres.data_root(self.config)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def _stopper(self) -> Stopper:
        return Stopper(self.config, Supervisor(self.config), self.report)

    def _stop_everything(self) -> None:
        stopper = self._stopper()
        stopper.stop(list(SERVERS))
        stopper.stop_everything_else()

    def _reject_changed_settings(self, context: Context, running: list[Server]) -> None:
        changed = [server.name for server in running if server.settings_changed(context)]
        if changed:
            raise ConfigurationError(
                f"the settings of {', '.join(changed)} have changed since it started. "
                "Stop it first: python -m stack down"
            )

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        create_folders(self.config)
        with private_umask(), (self.config.home / "lock").open("a+", encoding="ascii") as file:
            _lock(file.fileno(), self.report)
            yield


def _lock(descriptor: int, report: Report) -> None:
    deadline = time.monotonic() + 120
    reported = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    "another up, down or reset of this home is still running: wait for it, or interrupt it with Ctrl-C"
                ) from None
            if not reported:
                report("waiting for another up, down or reset of this home")
            reported = True
            time.sleep(0.2)
