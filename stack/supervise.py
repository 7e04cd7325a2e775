"""The supervisor (supervisord): its configuration, its start, and what we ask of it over its socket."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack import records
from stack.config import LocalConfig
from stack.credentials import write_private
from stack.server import Launch, Server, ServerError, launcher, log_hint, spec_path, write_spec

#: A path of a socket has room for about 100 bytes on every system.
_LONGEST_SOCKET = 90
_RPC_SECONDS = 10.0
#: Supervisors outlive whoever starts them. Their handles are kept: Python complains of one that is dropped.
_STARTED: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class ProgramState:
    """What the supervisor knows of one server; ``state`` is its word: RUNNING, STARTING, BACKOFF, FATAL, STOPPED."""

    name: str
    state: str
    pid: int
    started: float
    why: str

    @property
    def up(self) -> bool:
        return self.state in ("RUNNING", "STARTING", "BACKOFF")


class SupervisorSilentError(ServerError):
    """The supervisor does not answer on its socket."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_RPC_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        # Kept where the base class looks for what it has to close.
        connection = _Connection(self._path)
        self._connection = (host, connection)
        return connection


class Supervisor:
    """One supervisord for one home. Methods that ask it raise ``SupervisorSilentError`` when it does not answer."""

    def __init__(self, config: LocalConfig) -> None:
        self._config = config

    @property
    def record(self) -> records.Record | None:
        return records.read(self._config.run, records.SUPERVISOR)

    @property
    def alive(self) -> bool:
        record = self.record
        return record is not None and record.alive

    def start(self, servers: list[Server]) -> None:
        """Start it with nothing running yet. Returns once it answers; ``ServerError`` when it does not."""
        write_private(self._file, self._configuration(servers))
        argv = (sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._file))
        spec = write_spec(self._config, records.SUPERVISOR, Launch(argv, self._config.run))
        log = self._config.log(records.SUPERVISOR)
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal does not reach it, and the session names what is ours.
            process = subprocess.Popen(
                launcher(spec), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _STARTED[:] = [*(handle for handle in _STARTED if handle.poll() is None), process]
        deadline = time.monotonic() + 20
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the supervisor did not start. {log_hint(log)}")
            time.sleep(0.05)

    def states(self) -> dict[str, ProgramState]:
        """Every server it knows; empty when it does not run."""
        if not self.alive:
            return {}
        with self._rpc() as rpc:
            answer = rpc.supervisor.getAllProcessInfo()
        return {entry.name: entry for entry in map(_state, _dictionaries(answer))}

    def start_server(self, name: str) -> None:
        """Return at once; the server may still fail to start."""
        with self._rpc() as rpc:
            rpc.supervisor.startProcess(name, False)

    def stop_server(self, name: str) -> None:
        """Ask for a stop and return at once; the supervisor sends SIGKILL when the server's time is over."""
        with self._rpc() as rpc, contextlib.suppress(xmlrpc.client.Fault):
            rpc.supervisor.stopProcess(name, False)

    def shut_down(self, seconds: float) -> None:
        """End the supervisor, by SIGKILL when it takes longer than this."""
        record = self.record
        if record is None or not record.alive:
            return
        try:
            with self._rpc() as rpc:
                rpc.supervisor.shutdown()
        except (SupervisorSilentError, xmlrpc.client.Error):
            # It does not listen yet, or no longer.
            records.signal_process(record, signal.SIGTERM)
        if not records.wait_gone(record, seconds):
            records.kill({record.pid})
            records.wait_gone(record, 5)

    def remove_socket(self) -> None:
        self._socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            with self._rpc() as rpc:
                rpc.supervisor.getState()
        except SupervisorSilentError:
            return False
        return True

    @contextlib.contextmanager
    def _rpc(self) -> Iterator[xmlrpc.client.ServerProxy]:
        with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(self._socket)) as proxy:
            try:
                yield proxy
            except (OSError, http.client.HTTPException) as exc:
                raise SupervisorSilentError(
                    f"the supervisor of {self._config.home} does not answer ({type(exc).__name__}). "
                    "End it and its servers with: python -m stack down"
                ) from exc

    @property
    def _file(self) -> Path:
        return self._config.run / "supervisord.conf"

    @property
    def _socket(self) -> Path:
        near = self._config.run / "supervisor.sock"
        if len(os.fsencode(near)) <= _LONGEST_SOCKET:
            return near
        name = hashlib.sha256(str(self._config.home).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"millrace-{os.geteuid()}-{name}.sock"

    def _configuration(self, servers: list[Server]) -> str:
        log = self._config.log(records.SUPERVISOR)
        head: dict[str, dict[str, object]] = {
            "supervisord": {
                "logfile": log,
                "logfile_maxbytes": "2MB",
                "logfile_backups": 1,
                "pidfile": self._config.run / "supervisord.pid",
                "silent": "true",
                "identifier": "millrace",
                "directory": self._config.run,
                "user": getpass.getuser() if os.geteuid() == 0 else "",
            },
            "unix_http_server": {"file": self._socket, "chmod": "0700"},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
        }
        programs = {f"program:{s.name}": self._program(s, priority) for priority, s in enumerate(servers, start=1)}
        return "\n".join(_section(title, values) for title, values in {**head, **programs}.items())

    def _program(self, server: Server, priority: int) -> dict[str, object]:
        spec = spec_path(self._config, server.name)
        return {
            "command": shlex.join(launcher(spec)),
            "priority": priority,
            "autostart": "false",
            "autorestart": "true",
            "startsecs": server.settle_seconds,
            "startretries": 3,
            "stopsignal": server.stop.signum.name.removeprefix("SIG"),
            "stopwaitsecs": server.stop.seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            # The supervisor expands this one twice.
            "stdout_logfile": str(self._config.log(server.name)).replace("%", "%%"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": 2,
        }


def _section(title: str, values: dict[str, object]) -> str:
    lines = (f"{name}={str(value).replace('%', '%%')}" for name, value in values.items() if value != "")
    return "\n".join([f"[{title}]", *lines, ""])


def _dictionaries(answer: object) -> list[dict[str, object]]:
    return [entry for entry in answer if isinstance(entry, dict)] if isinstance(answer, list) else []


def _state(entry: dict[str, object]) -> ProgramState:
    return ProgramState(
        name=str(entry["name"]),
        state=str(entry["statename"]),
        pid=int(str(entry["pid"])),
        started=float(str(entry["start"])),
        why=str(entry["spawnerr"]),
    )
