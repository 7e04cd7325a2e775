"""All local servers as a unit: start, stop and status."""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from include.errors import ConfigurationError
from stack import records
from stack.checks import check_machine, check_not_full
from stack.config import LocalConfig
from stack.credentials import Secrets
from stack.installation import build_context, client_environment, create_folders, load_secrets
from stack.lock import hold_lock
from stack.private import create_folder, private_umask
from stack.server import Context, Report, Server
from stack.servers import SERVERS, choose, postgres
from stack.start import Starter
from stack.status import ServerStatus, read_statuses
from stack.stop import Stopper
from stack.supervise import Supervisor


@dataclass(frozen=True)
class Stack:
    """The local servers of one home. ``report`` gets a line for the user at every step.

    ``up``, ``down`` and ``reset`` exclude each other, across processes too; ``down`` and ``reset`` interrupt a running
    ``up``. As a context manager it stops the servers on exit.

    Setting ``interrupted`` ends ``up`` with ``KeyboardInterrupt``, and the other two as long as they wait for the lock.
    ``on_locked`` is called when they need not wait any more.
    """

    config: LocalConfig
    report: Report = print
    interrupted: threading.Event = field(default_factory=threading.Event)
    on_locked: Callable[[], None] = lambda: None

    def up(self, names: Iterable[str] | None = None) -> None:
        """Start these servers and the servers they need (all by default); return when each one is healthy.

        Servers that are already up stay untouched. If one fails, or when interrupted, everything that this call started
        is stopped before the error is raised.
        """
        servers = choose(names)
        with self._exclusive("up"):
            create_folders(self.config)
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
                    supervisor.start(list(SERVERS), self.interrupted)
                Starter(context, supervisor, self.report, self.interrupted).start(servers)
            except BaseException as error:
                self.report("stopping what was started ...")
                stopper = self._stopper()
                stopper.stop([server for server in SERVERS if server.name not in before])
                if not before:
                    stopper.stop_everything_else()
                if isinstance(error, Exception):
                    check_not_full(self.config)
                raise

    def down(self) -> bool:
        """Stop every process of this home, whoever started it. Returns whether anything had been started.

        Needs no package unless something had been.
        """
        if not self._lock.exists() and not self.config.run.exists():
            return False
        with self._exclusive("down"):
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
        """Stop everything and delete the data, logs and state of this home. Downloads and secrets stay.

        Raises ``ConfigurationError`` that names what could not be deleted.
        """
        with self._exclusive("reset"):
            self._stop_everything()
            left = _delete([*self._state_folders(), self.config.run])
        if left:
            raise ConfigurationError(
                f"the servers are stopped, but reset could not delete {' and '.join(left)}: "
                "delete the rest yourself, or set MILLRACE_HOME to another folder"
            )

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

    @property
    def _lock(self) -> Path:
        return self.config.home / "lock"

    @contextlib.contextmanager
    def _exclusive(self, command: str) -> Iterator[None]:
        # Folders above the home are not part of the installation: they get the mode that the user's umask gives them.
        self.config.home.parent.mkdir(parents=True, exist_ok=True)
        create_folder(self.config.home)
        with private_umask(), hold_lock(self._lock, command, self.report, self.interrupted):
            self.on_locked()
            yield


def _delete(folders: Iterable[Path]) -> list[str]:
    """Delete these folders. Returns what is left, with the reasons."""
    left: list[str] = []

    def note(_: object, path: str, error: BaseException) -> None:
        # A folder is not empty because something else in it could not be deleted.
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            left.append(f"{path} ({error.strerror or error})")

    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder, onexc=note)
    return left if len(left) < 4 else [*left[:3], f"{len(left) - 3} others"]
