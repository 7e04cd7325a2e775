"""A stack for one test, and what its tests need: commands, unrelated processes, and Python programs as servers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from stack import records
from stack.config import PORT_PREFIX, PROJECT
from stack.installation import build_context, config_on_free_ports
from stack.probe import http_get
from stack.server import Context, Launch, Report, Server
from stack.stack import Stack
from stack.start import Starter
from stack.stop import Stopper
from stack.supervise import Supervisor

PATIENCE_S = 60
#: The cheapest servers; the reader needs Redis.
CHEAP = ("redis", "reader")

#: Reports for a while that it is not ready.
LATE = """
import http.server, sys, time
ready = time.monotonic() + 1.5
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() > ready else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

#: The same, reachable from other machines.
OPEN = LATE.replace("127.0.0.1", "0.0.0.0")

#: ``python -m stack`` in a process that exits with 99 if it looks up a host or connects beyond this machine.
OFFLINE = """
import os, sys

def forbid(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1"):
        os._exit(99)
    if event == "socket.connect" and not isinstance(arguments[1], (str, bytes)) and arguments[1][0] != "127.0.0.1":
        os._exit(99)

sys.addaudithook(forbid)
from stack.cli import main
sys.exit(main(sys.argv[1:]))
"""


class ReportLog(list[str]):
    """The lines that the stack reported to the user."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


@contextmanager
def temporary_stack(report: Report) -> Iterator[Stack]:
    """A stack in its own home, with nothing running yet. At the end it is stopped and its home is deleted."""
    # Every user may enter the folder, including PostgreSQL's.
    home = Path(tempfile.mkdtemp(prefix="millrace-stack-"))
    try:
        with Stack(config_on_free_ports(home), report) as stack:
            yield stack
    finally:
        shutil.rmtree(home, ignore_errors=True)


def read_pid(stack: Stack, name: str) -> int:
    """The recorded process of a server."""
    record = records.read_record(stack.config.run, name)
    assert record is not None
    return record.pid


def list_running(stack: Stack) -> list[str]:
    """The names of the recorded processes that are running."""
    return [record.name for record in records.read_all(stack.config.run) if record.alive]


def reader_is_healthy(stack: Stack) -> bool:
    try:
        return httpx.get(f"http://{stack.config.address('reader')}/healthz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no success within {PATIENCE_S} s"
        time.sleep(0.1)


def run_command(stack: Stack, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """``python -m stack`` with the settings of this stack."""
    ports = {f"{PORT_PREFIX}{name.upper()}": str(port) for name, port in stack.config.ports.items()}
    program = ["-c", OFFLINE] if offline else ["-m", "stack"]
    line = [sys.executable, *program, "--home", str(stack.config.home), *arguments]
    return subprocess.run(
        line, cwd=PROJECT, env={**os.environ, **ports}, capture_output=True, text=True, check=False, timeout=120
    )


@contextmanager
def occupied_port(port: int) -> Iterator[None]:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        yield


@contextmanager
def unrelated_process_recorded_as(stack: Stack, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """An unrelated process whose id is in a record, together with the start time of another process."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        record = json.loads(records.record_path(stack.config.run, "redis").read_text(encoding="utf-8"))
        reused = {**record, "name": name, "pid": process.pid, "pgid": process.pid, "sid": process.pid}
        records.record_path(stack.config.run, name).write_text(json.dumps(reused), encoding="utf-8")
        yield process
    finally:
        process.kill()
        process.wait()


def find_supervisor(server: int) -> int:
    """The parent of a server's process."""
    return psutil.Process(server).ppid()


def python_server(program: str) -> Server:
    """A Python program as a server. Its argument is the port of Redis, where its health is checked over HTTP."""

    def launch(context: Context) -> Launch:
        return Launch((sys.executable, "-c", program, str(context.config.ports["redis"])), context.config.run)

    def check_health(context: Context) -> None:
        http_get(f"http://{context.config.address('redis')}")

    return Server(name="odd", priority=0, ports={"redis": 0}, launch=launch, check_health=check_health)


@contextmanager
def running_starter(stack: Stack, reports: ReportLog, server: Server) -> Iterator[Starter]:
    """A starter whose supervisor has only this server; everything is stopped at the end."""
    for folder in (stack.config.run, stack.config.logs):
        folder.mkdir(parents=True)
    supervisor = Supervisor(stack.config)
    supervisor.start([server])
    try:
        yield Starter(build_context(stack.config), supervisor, reports)
    finally:
        Stopper(stack.config, supervisor, reports).stop_everything_else()
