"""The supervisor (supervisord): its configuration, its start, and calls over its socket."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import http.client
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stack import records
from stack.config import LocalConfig
from stack.credentials import write_private
from stack.private import create_owned_folder
from stack.server import Launch, Server, ServerError, launch_command, log_hint, spec_path, write_spec

#: The path of a Unix socket is limited to about 100 bytes.
_LONGEST_SOCKET = 90
_RPC_SECONDS = 10.0
#: Keep the Popen handles: Python warns when the handle of a running process is dropped.
_HANDLES: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class ProgramState:
    """The supervisor's view of one server; ``state`` is RUNNING, STARTING, BACKOFF, FATAL, STOPPED or another."""

    name: str
    state: str
    pid: int
    started_at: float

    @property
    def up(self) -> bool:
        """Whether it runs, or the supervisor is still trying to start it."""
        return self.state in ("RUNNING", "STARTING", "BACKOFF")


class SupervisorUnreachableError(ServerError):
    """The supervisor does not respond on its socket."""


class Supervisor:
    """The supervisord of one home. Calls raise ``SupervisorUnreachableError`` when it does not respond."""

    def __init__(self, config: LocalConfig) -> None:
        self._config = config

    @property
    def record(self) -> records.Record | None:
        """The supervisor's process record."""
        return records.read_record(self._config.run, records.SUPERVISOR)

    @property
    def alive(self) -> bool:
        """Whether the supervisor process is running."""
        record = self.record
        return record is not None and record.alive

    def start(self, servers: list[Server], interrupted: threading.Event | None = None) -> None:
        """Start the supervisor without any servers. Returns once it responds; raises ``ServerError`` if it does not.

        Setting ``interrupted`` ends it again and raises ``KeyboardInterrupt``.
        """
        if self._socket.parent != self._config.run:
            # In the shared temporary folder, another user could listen on the socket's path first.
            create_owned_folder(self._socket.parent, 0o700, "set MILLRACE_HOME to a shorter path")
        write_private(self._file, self._build_configuration(servers))
        argv = (sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._file))
        spec = write_spec(self._config, records.SUPERVISOR, Launch(argv, self._config.run))
        log = self._config.log(records.SUPERVISOR)
        with log.open("ab") as output:
            # In a session of its own: Ctrl-C does not reach it, and the session identifies the processes of this stack.
            process = subprocess.Popen(  # noqa: S603 (our own launcher)
                launch_command(spec), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _HANDLES[:] = [*(handle for handle in _HANDLES if handle.poll() is None), process]
        try:
            self._wait_until_it_responds(process, interrupted or threading.Event())
        except BaseException:
            # It may not have recorded itself yet, and nothing else would find it then.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    def _wait_until_it_responds(self, process: subprocess.Popen[bytes], interrupted: threading.Event) -> None:
        deadline = time.monotonic() + 20
        while not self._responds():
            if interrupted.is_set():
                raise KeyboardInterrupt
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the supervisor did not start. {log_hint(self._config.log(records.SUPERVISOR))}")
            time.sleep(0.05)

    def states(self) -> dict[str, ProgramState]:
        """The state of every server; empty if the supervisor is not running."""
        if not self.alive:
            return {}
        with self._rpc() as rpc:
            response = rpc.supervisor.getAllProcessInfo()
        return {entry.name: entry for entry in map(_parse_state, _select_dictionaries(response))}

    def start_server(self, name: str) -> None:
        """Start a server and return immediately; it may still fail to start."""
        with self._rpc() as rpc:
            rpc.supervisor.startProcess(name, False)

    def stop_server(self, name: str) -> None:
        """Stop a server and return immediately; the supervisor sends SIGKILL after the server's timeout."""
        with self._rpc() as rpc, contextlib.suppress(xmlrpc.client.Fault):
            rpc.supervisor.stopProcess(name, False)

    def shut_down(self, seconds: float) -> None:
        """Stop the supervisor, with SIGKILL if it takes longer than ``seconds``."""
        record = self.record
        if record is None or not record.alive:
            return
        try:
            with self._rpc() as rpc:
                rpc.supervisor.shutdown()
        except (SupervisorUnreachableError, xmlrpc.client.Error):
            # It is not listening yet, or not any more.
            records.signal_process(record, signal.SIGTERM)
        if not records.wait_until_gone(record, seconds):
            records.kill({record.pid})
            records.wait_until_gone(record, 5)

    def remove_socket(self) -> None:
        """Delete the socket that a killed supervisor left."""
        self._socket.unlink(missing_ok=True)

    def _responds(self) -> bool:
        try:
            with self._rpc() as rpc:
                rpc.supervisor.getState()
        except SupervisorUnreachableError:
            return False
        return True

    @contextlib.contextmanager
    def _rpc(self) -> Iterator[xmlrpc.client.ServerProxy]:
        transport = _build_transport(self._socket)
        # The transport knows the socket; the URL only has to be valid.
        with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport) as proxy:
            try:
                yield proxy
            except (OSError, http.client.HTTPException) as exc:
                raise SupervisorUnreachableError(
                    f"the supervisor of {self._config.home} does not respond ({type(exc).__name__}). "
                    "Stop it and its servers: python -m stack down"
                ) from exc

    @property
    def _file(self) -> Path:
        return self._config.run / "supervisord.conf"

    @property
    def _socket(self) -> Path:
        in_home = self._config.run / "supervisor.sock"
        if len(os.fsencode(in_home)) <= _LONGEST_SOCKET:
            return in_home
        name = hashlib.sha256(str(self._config.home).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"millrace-{os.geteuid()}-run" / f"{name}.sock"

    def _build_configuration(self, servers: list[Server]) -> str:
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
        programs = {
            f"program:{s.name}": self._build_program(s, priority) for priority, s in enumerate(servers, start=1)
        }
        return "\n".join(_format_section(title, values) for title, values in {**head, **programs}.items())

    def _build_program(self, server: Server, priority: int) -> dict[str, object]:
        spec = spec_path(self._config, server.name)
        return {
            "command": shlex.join(launch_command(spec)),
            "priority": priority,
            "autostart": "false",
            "autorestart": "true",
            "startsecs": server.min_uptime_seconds,
            "startretries": 3,
            "stopsignal": server.stop.signum.name.removeprefix("SIG"),
            "stopwaitsecs": server.stop.timeout_seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            # The supervisor expands this value twice.
            "stdout_logfile": str(self._config.log(server.name)).replace("%", "%%"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": 2,
        }


def _build_transport(path: Path) -> xmlrpc.client.Transport:
    """Supervisor's own transport, with the timeout that it lacks: a supervisor that hangs must not hang its caller."""
    import socket

    from supervisor.xmlrpc import SupervisorTransport, UnixStreamHTTPConnection

    class Connection(UnixStreamHTTPConnection):  # type: ignore[misc] # supervisor has no types
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(_RPC_SECONDS)
            self.sock.connect(str(path))

    transport: xmlrpc.client.Transport = SupervisorTransport(serverurl=f"unix://{path}")
    transport._get_connection = lambda: Connection("localhost")  # type: ignore[attr-defined]
    return transport


def _format_section(title: str, values: dict[str, object]) -> str:
    lines = (f"{name}={str(value).replace('%', '%%')}" for name, value in values.items() if value != "")
    return "\n".join([f"[{title}]", *lines, ""])


def _select_dictionaries(response: object) -> list[dict[str, object]]:
    return [entry for entry in response if isinstance(entry, dict)] if isinstance(response, list) else []


def _parse_state(entry: dict[str, object]) -> ProgramState:
    return ProgramState(
        name=str(entry["name"]),
        state=str(entry["statename"]),
        pid=int(str(entry["pid"])),
        started_at=float(str(entry["start"])),
    )
