"""The supervisor: its configuration, as supervisord itself parses it, its socket, and the spec of each start."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.errors import ConfigurationError
from stack import records, supervise
from stack.config import LocalConfig
from stack.installation import build_context, config_on_free_ports
from stack.launch import write_record
from stack.server import Context, Launch, Server, ServerError, launch_command, spec_path, write_spec
from stack.servers import SERVERS
from stack.supervise import ProgramState, Supervisor, SupervisorUnreachableError

#: A folder name full of characters that are special in a configuration file.
ODD = "100% it's %s ö"


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return build_context(config_on_free_ports(tmp_path))


def parse(config: LocalConfig, path: Path) -> Any:
    """The configuration as supervisord's own parser reads it."""
    from supervisor.options import ServerOptions

    for folder in (config.logs, config.run):
        folder.mkdir(parents=True)
    path.write_text(Supervisor(config)._build_configuration(list(SERVERS)), encoding="utf-8")
    options = ServerOptions()
    options.realize(["-n", "-c", str(path)])
    return options


@pytest.mark.parametrize("folder", ["home", ODD])
def test_supervisord_understands_its_configuration(tmp_path: Path, folder: str) -> None:
    """It reads every server in order, with its command, log and stop signal."""
    config = config_on_free_ports(tmp_path / folder)
    options = parse(config, tmp_path / "supervisord.conf")
    programs = [group.process_configs[0] for group in options.process_group_configs]
    assert [program.name for program in programs] == [server.name for server in SERVERS]
    for program, server in zip(programs, SERVERS, strict=True):
        assert shlex.split(program.command) == launch_command(spec_path(config, server.name))
        assert program.stdout_logfile == str(config.log(server.name))
        assert (program.stopsignal, program.stopwaitsecs) == (server.stop.signum, server.stop.timeout_seconds)
        assert program.startsecs == server.min_uptime_seconds
        assert program.redirect_stderr
        assert program.killasgroup
        assert not program.autostart


@pytest.mark.parametrize("folder", ["home", ODD])
def test_only_the_owner_can_reach_the_supervisor(tmp_path: Path, folder: str) -> None:
    """It listens on a private socket file and on no port."""
    config = config_on_free_ports(tmp_path / folder)
    (listener,) = parse(config, tmp_path / "supervisord.conf").server_configs
    assert listener["file"] == str(Supervisor(config)._socket)
    assert listener["chmod"] == 0o700


@pytest.mark.parametrize("length", [1, 300])
def test_a_long_home_has_a_short_socket_path(tmp_path: Path, length: int) -> None:
    """Socket paths are limited to about 100 bytes, so a long home gets a stable path of its own elsewhere."""
    homes = [tmp_path / ("x" * 100) / ("y" * 100) / f"{number:0{length // 3}}" for number in range(2)]
    configs = [LocalConfig(home, ports={}, heaps={}) for home in (*homes, homes[0])]
    sockets = [Supervisor(config)._socket for config in configs]
    assert all(len(os.fsencode(socket)) <= 100 for socket in sockets)
    assert sockets[0] == sockets[2]
    assert sockets[0] != sockets[1]


def test_a_foreign_folder_for_the_socket_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long home has its socket below the temporary folder, where another user may have been first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    supervisor = Supervisor(config_on_free_ports(tmp_path / ("x" * 100)))
    (tmp_path / "elsewhere").mkdir()
    supervisor._socket.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        ConfigurationError, match="belongs to another user: remove it, or set MILLRACE_HOME to a shorter path"
    ):
        supervisor.start([])
    assert not supervisor.alive


def test_without_a_supervisor_nothing_runs(context: Context) -> None:
    """There are no states, and shutting down is not an error."""
    supervisor = Supervisor(context.config)
    assert not supervisor.alive
    assert supervisor.states() == {}
    supervisor.shut_down(seconds=1)
    supervisor.remove_socket()


@pytest.fixture
def supervisor(context: Context) -> Supervisor:
    """A supervisor that is recorded as running (by this process) and has no socket yet."""
    records.records_folder(context.config.run).mkdir(parents=True)
    write_record(records.record_path(context.config.run, records.SUPERVISOR), records.SUPERVISOR)
    return Supervisor(context.config)


def test_a_supervisor_without_a_socket_is_reported(supervisor: Supervisor) -> None:
    """If it is alive but does not respond, the error says how to stop it."""
    assert supervisor.alive
    with pytest.raises(ServerError, match=r"does not respond \(\w+Error\)\. Stop it .* stack down"):
        supervisor.states()


@contextlib.contextmanager
def listener(path: Path, backlog: int = 1) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(backlog)
        yield server


def test_a_supervisor_that_hangs_times_out(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that accepts connections and never responds does not hang the caller."""
    monkeypatch.setattr(supervise, "_RPC_SECONDS", 0.2)
    began = time.monotonic()
    with listener(supervisor._socket), pytest.raises(SupervisorUnreachableError, match="TimeoutError"):
        supervisor.states()
    assert time.monotonic() - began < 10


def test_a_full_socket_times_out(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a socket whose queue of connections is full because no one accepts them any more."""
    monkeypatch.setattr(supervise, "_RPC_SECONDS", 0.2)
    with listener(supervisor._socket, backlog=0), contextlib.ExitStack() as clients:
        for _ in range(4):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(0.1)
            with contextlib.suppress(OSError):
                client.connect(str(supervisor._socket))
        with pytest.raises(SupervisorUnreachableError):
            supervisor.states()


def test_a_supervisor_that_exits_during_a_call_is_reported(supervisor: Supervisor) -> None:
    """A closed connection means that it is unreachable, whatever error the transport raises."""

    def accept_and_close() -> None:
        connection, _ = server.accept()
        connection.recv(65_536)
        connection.close()

    with listener(supervisor._socket) as server:
        thread = threading.Thread(target=accept_and_close)
        thread.start()
        with pytest.raises(SupervisorUnreachableError):
            supervisor.states()
        thread.join()


@pytest.mark.parametrize(
    ("state", "up"),
    [("RUNNING", True), ("STARTING", True), ("BACKOFF", True), ("FATAL", False), ("STOPPED", False), ("EXITED", False)],
)
def test_which_states_count_as_up(state: str, up: bool) -> None:
    """A server that the supervisor still tries to start is up; one that it gave up or stopped is not."""
    assert ProgramState("kafka", state, 0, 0.0).up is up


def test_a_start_inherits_little(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start is the same whatever the shell has set: a few common variables and the server's own."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("MILLRACE_SHARDS", "9")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("LC_ALL", "C")
    path = write_spec(context.config, "kafka", Launch(("/bin/true",), Path("/"), {"OWN": "1"}))
    environment = json.loads(path.read_text())["environment"]
    assert environment["OWN"] == "1"
    assert environment["TZ"] == "UTC"
    assert environment["LC_ALL"] == "C.UTF-8"
    assert "127.0.0.1" in environment["NO_PROXY"]
    assert not {"PYTHONPATH", "MILLRACE_SHARDS"} & set(environment)


def test_a_process_writes_private_files_and_folders(context: Context, tmp_path: Path) -> None:
    """Whatever the umask of the shell, what a server creates is private, and so is the record of its process."""
    code = "import os; open('file', 'w').close(); os.mkdir('folder')"
    spec = write_spec(context.config, "odd", Launch((sys.executable, "-c", code), tmp_path))
    subprocess.run(["sh", "-c", 'umask 0; exec "$@"', "sh", *launch_command(spec)], check=True, timeout=60)
    paths = [tmp_path / "file", records.record_path(context.config.run, "odd"), tmp_path / "folder"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o600, 0o700]


def test_launch_imports_little(context: Context) -> None:
    """It runs at every start, including restarts: isolated, with psutil and the standard library only."""
    interpreter, *flags, script, spec = launch_command(spec_path(context.config, "kafka"))
    assert interpreter == sys.executable
    assert flags == ["-I"]
    assert Path(script).name == "launch.py"
    assert spec == str(spec_path(context.config, "kafka"))
    source = Path(script).read_text(encoding="utf-8")
    lines = [line.split() for line in source.splitlines()]
    imported = {words[1] for words in lines if words[:1] in (["import"], ["from"])}
    assert imported - {"__future__"} <= set(sys.stdlib_module_names) | {"psutil"}


CHANGES: dict[str, Callable[[Context], dict[str, Any]]] = {
    "port": lambda context: {"ports": {**context.config.ports, "reader": 1}},
    "redis": lambda context: {"ports": {**context.config.ports, "redis": 1}},
    "environment": lambda _: {"extra_environment": {"MORE": "1"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_settings_are_noticed(context: Context, change: str) -> None:
    """A change of its port, its environment or a server it needs is noticed."""
    (server,) = (server for server in SERVERS if server.name == "reader")
    server.write_spec(context)
    assert not server.settings_changed(context)
    changed = replace(context.config, **CHANGES[change](context))
    assert server.settings_changed(replace(context, config=changed))


def test_a_changed_heap_is_noticed(context: Context) -> None:
    """The heap is in a file rather than an argument and still counts; that of another server does not."""
    (server,) = (server for server in SERVERS if server.name == "neo4j")
    server.write_spec(context)
    for name, changed in (("kafka", False), ("neo4j", True)):
        config = replace(context.config, heaps={**context.config.heaps, name: "999m"})
        assert server.settings_changed(replace(context, config=config)) is changed


def test_settings_are_json(context: Context) -> None:
    """Settings read back from the spec file equal the current ones."""
    server = Server(
        name="odd",
        priority=0,
        ports={"redis": 0},
        launch=lambda _: Launch(("/bin/true", "1"), Path("/"), {"A": "1"}),
        check_health=lambda _: None,
    )
    settings = server.settings(context)
    assert json.loads(json.dumps(settings)) == settings
