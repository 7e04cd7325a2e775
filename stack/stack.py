"""All local servers as one: start, stop, and what is going on."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from include.errors import ConfigurationError
from stack import records
from stack.checks import check_machine
from stack.config import LocalConfig
from stack.credentials import load_or_create
from stack.environment import client_environment
from stack.server import Context, Server
from stack.servers import SERVERS, choose, postgres
from stack.start import Starter
from stack.status import ServerStatus, server_statuses
from stack.stop import Stopper
from stack.supervise import Supervisor

type Say = Callable[[str], None]


@dataclass(frozen=True)
class Stack:
    """The local servers of one home. ``say`` gets a line for every step, for a person to read.

    ``up`` and ``down`` exclude each other and themselves, between processes too. Use it as a context manager to
    have the servers ended at its end.
    """

    config: LocalConfig
    say: Say = print

    def up(self, services: Iterable[str] | None = None) -> None:
        """Start these servers and what they need (all by default); return when each one answers.

        What runs already is left as it is. When one fails, or on Ctrl-C, everything that this call started is
        ended before the error leaves; what ran before stays.
        """
        servers = choose(services)
        with self._alone():
            supervisor = Supervisor(self.config)
            if not supervisor.alive and (left := records.leftovers(self.config.run)):
                self.say(f"ending {len(left)} processes that a killed supervisor left")
                self._end_everything()
            records.end_tools(self.config.run)
            before = {name for name, state in supervisor.states().items() if state.up}
            context = Context(self.config, load_or_create(self.config.home))
            self._refuse_changes(context, [server for server in servers if server.name in before])
            check_machine(self.config, [server for server in servers if server.name not in before])
            try:
                if not supervisor.alive:
                    supervisor.start(list(SERVERS))
                Starter(context, supervisor, self.say).start(servers)
            except BaseException:
                self.say("ending what was started ...")
                stopper = self._stopper()
                stopper.stop([server for server in SERVERS if server.name not in before])
                if not before:
                    stopper.end_all()
                raise

    def down(self) -> None:
        """End every process of this home, whoever started it; nothing is left when it returns."""
        if not self.config.run.exists():
            return
        with self._alone():
            self._end_everything()

    def status(self) -> list[ServerStatus]:
        """Each server that was started, in order of priority, asked just now whether it answers."""
        context = Context(self.config, load_or_create(self.config.home))
        return server_statuses(context, Supervisor(self.config).states(), SERVERS)

    def environment(self) -> dict[str, str]:
        """What a client of these servers needs to know."""
        return client_environment(self.config)

    def reset(self) -> None:
        """``down``, then delete what this home made. Downloads and jars stay."""
        self.down()
        with self._alone():
            for path in (self.config.home / "data", self.config.home / "logs", self.config.home / "airflow"):
                shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(postgres.root(self.config), ignore_errors=True)
        shutil.rmtree(self.config.run, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def _stopper(self) -> Stopper:
        return Stopper(self.config, Supervisor(self.config), self.say)

    def _end_everything(self) -> None:
        stopper = self._stopper()
        stopper.stop(list(SERVERS))
        stopper.end_all()

    def _refuse_changes(self, context: Context, running: list[Server]) -> None:
        changed = [server.name for server in running if server.differs(context)]
        if changed:
            raise ConfigurationError(
                f"{', '.join(changed)} runs with other settings than those given now. "
                "Stop it first: python -m stack down"
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.config.home.mkdir(parents=True, exist_ok=True)
        # Passable, since PostgreSQL may run as another user below; what is private is so by its own mode.
        self.config.home.chmod(0o711)
        for folder in (self.config.run, self.config.logs):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o711)
        with (self.config.home / "lock").open("a+", encoding="ascii") as file:
            _lock(file.fileno(), self.say)
            yield


def _lock(descriptor: int, say: Say) -> None:
    deadline = time.monotonic() + 120
    told = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    "another up, down or reset of this home is still running: wait for it, or end it with Ctrl-C"
                ) from None
            if not told:
                say("waiting for another up, down or reset of this home")
            told = True
            time.sleep(0.2)
