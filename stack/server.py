"""What a local server is: how it is prepared, started, checked and stopped, and what its clients need to know."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.errors import MillraceError, PermanentError
from stack import records
from stack.config import PROJECT, LocalConfig
from stack.credentials import SecretFactory, Secrets, write_private
from stack.private import create_folder

#: The only variables a server inherits from the shell. The rest comes from its ``Launch``, so every start is the same.
_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
)  # fmt: skip

#: Java reads paths in the encoding of the locale: in the C locale it could not open a home such as /home/José.
_ALWAYS = {"LC_ALL": "C.UTF-8", "NO_PROXY": "127.0.0.1,localhost"}

#: Gets one line of progress for the user.
type Report = Callable[[str], None]
#: Fields of Airflow connections, by connection id.
type Connections = Mapping[str, Mapping[str, Any]]


class ServerError(PermanentError):
    """A local server did not come up. The message names its log and ends with its last lines."""


class CancelledError(MillraceError):
    """The start was abandoned because another server failed or the user interrupted it."""


@dataclass(frozen=True)
class Account:
    """The user a server runs as when it is not the current one."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Launch:
    """The process that a server becomes. ``environment`` is added to the few variables that all servers inherit."""

    argv: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None


@dataclass(frozen=True)
class Stop:
    """``signum`` asks the server to stop; SIGKILL follows after the timeout. Lower ``order`` stops first."""

    signum: signal.Signals = signal.SIGTERM
    timeout_seconds: int = 20
    order: int = 30


@dataclass(frozen=True)
class Context:
    """What the functions of a server may use. ``report_progress`` says what is being done, for the user to see.

    ``servers`` are all servers of the stack: Airflow needs the connections that the others declare.
    """

    config: LocalConfig
    secrets: Secrets
    servers: Sequence[Server]
    cancelled: threading.Event = field(default_factory=threading.Event)
    report_progress: Report = lambda _: None

    def run(self, name: str, launch: Launch, stdin: str = "") -> None:
        """Run a tool to completion, with its output in the log of ``name``. Cancelling the start kills the tool.

        Raises ``ServerError`` with the last lines of the log when the tool fails.
        """
        log = self.config.log(name)
        create_folder(log.parent)
        spec = write_spec(self.config, name + records.TOOL, launch)
        with log.open("ab") as output:
            # In its own session: Ctrl-C reaches only this process, which then kills the tool.
            process = subprocess.Popen(  # noqa: S603 (our own launcher)
                launch_command(spec), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
            try:
                status = _wait(process, stdin, self.cancelled)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self.cancelled.is_set():
            raise CancelledError(name)
        if status != 0:
            raise ServerError(f"preparing {name} failed with exit code {status}. {log_hint(log)}")


def _no_variables(_config: LocalConfig, _secrets: Secrets) -> Mapping[str, str]:
    return {}


def _no_connections(_config: LocalConfig, _secrets: Secrets) -> Connections:
    return {}


@dataclass(frozen=True, kw_only=True)
class Server:
    """Everything the stack knows about one server; each file in ``stack/servers/`` declares its own.

    - ``priority``: the order of starting and of ``status``, lowest first.
    - ``check_health``: raises while the server does not respond.
    - ``ports``: the default port numbers by name; clients use the first. ``heap``: the default size of its JVM heap.
    - ``packages``: the Python modules it needs. ``jars``: its Maven coordinates, without their dependencies.
    - ``secrets``: how to generate the secrets it needs, by name.
    - ``client_variables`` and ``connections``: what its clients and Airflow need to reach it.
    - ``needs``: the servers that must be up before it starts.
    - ``min_uptime_seconds``: a process that ends earlier counts as a failed start; after a few of those the supervisor
      gives up.
    """

    name: str
    priority: int
    launch: Callable[[Context], Launch]
    check_health: Callable[[Context], None]
    ports: Mapping[str, int] = field(default_factory=dict)
    heap: str = ""
    packages: tuple[str, ...] = ()
    jars: tuple[str, ...] = ()
    secrets: Mapping[str, SecretFactory] = field(default_factory=dict)
    client_variables: Callable[[LocalConfig, Secrets], Mapping[str, str]] = _no_variables
    connections: Callable[[LocalConfig, Secrets], Connections] = _no_connections
    prepare: Callable[[Context], None] = lambda _: None
    needs: tuple[str, ...] = ()
    start_timeout_seconds: int = 120
    min_uptime_seconds: int = 3
    stop: Stop = field(default_factory=Stop)

    @property
    def main_port(self) -> str | None:
        """The name of the port that clients use."""
        return next(iter(self.ports), None)

    def write_spec(self, context: Context) -> Path:
        """Write the file from which the supervisor starts this server."""
        launch, settings = self.launch(context), self.settings(context)
        return write_spec(context.config, self.name, launch, kill_orphans=True, settings=settings)

    def settings(self, context: Context) -> dict[str, object]:
        """The settings that require a restart when they change, as JSON values."""
        config, launch = context.config, self.launch(context)
        return {
            "argv": list(launch.argv),
            "environment": dict(launch.environment),
            "ports": {name: config.ports[name] for name in self.ports},
            "heap": config.heaps.get(self.name),
        }

    def settings_changed(self, context: Context) -> bool:
        """Whether the settings differ from those of the last start."""
        path = spec_path(context.config, self.name)
        return bool(json.loads(path.read_text(encoding="utf-8")).get("settings") != self.settings(context))


def write_spec(
    config: LocalConfig, name: str, launch: Launch, *, kill_orphans: bool = False, settings: object = None
) -> Path:
    """Write the file from which ``launch.py`` becomes this process. It contains secrets: only its owner can read it.

    ``settings`` is stored for ``Server.settings_changed``.
    """
    create_folder(records.records_folder(config.run))
    account = launch.account
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    content = {
        "name": name,
        "argv": launch.argv,
        "folder": str(launch.folder),
        "environment": {**inherited, **_ALWAYS, **launch.environment},
        "account": {"name": account.name, "uid": account.uid, "gid": account.gid} if account else None,
        "record": str(records.record_path(config.run, name)),
        "kill_orphans": kill_orphans,
        "settings": settings,
    }
    path = spec_path(config, name)
    write_private(path, json.dumps(content, indent=1))
    return path


def spec_path(config: LocalConfig, name: str) -> Path:
    """The spec file of a process."""
    return config.run / "specs" / f"{name}.json"


def launch_command(spec_path: Path) -> list[str]:
    """The command that becomes the process of a spec file."""
    return [sys.executable, "-I", str(Path(__file__).with_name("launch.py")), str(spec_path)]


def python_environment(config: LocalConfig, **variables: str) -> dict[str, str]:
    """The environment of a process that imports Millrace's own packages."""
    return {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", **variables, **config.extra_environment}


def log_hint(log: Path, lines: int = 15) -> str:
    """The end of an error message: where the log is, and its last lines."""
    return f"Last lines of {log}:\n{tail(log, lines)}"


def tail(log: Path, lines: int) -> str:
    """The last lines of a log, indented, or a note that there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return "    (no log was written)"
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line[:300]}" for line in last) or "    (the log is empty)"


def _wait(process: subprocess.Popen[bytes], stdin: str, cancelled: threading.Event) -> int:
    assert process.stdin is not None  # noqa: S101 (for mypy: it was started with a pipe)
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(stdin.encode())
    while not cancelled.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=0.1)
    return -1
