"""What the supervisor is told, as the supervisor itself reads it, and what is written for each start."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.errors import ConfigurationError
from stack import records
from stack.config import LocalConfig
from stack.credentials import load_or_create
from stack.launch import write_record
from stack.server import Context, Launch, Server, ServerError, launcher, spec_path, write_spec
from stack.servers import SERVERS, choose
from stack.supervise import ProgramState, Supervisor

#: A folder with what has a meaning of its own in such a file.
ODD = "100% it's %s ö"


def context_of(home: Path, **changes: Any) -> Context:
    config = replace(LocalConfig.with_free_ports(home), **changes)
    return Context(config, load_or_create(config.home))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return context_of(tmp_path)


def understood(config: LocalConfig, path: Path) -> Any:
    """The configuration, read by supervisord's own parser."""
    from supervisor.options import ServerOptions

    for folder in (config.logs, config.run):
        folder.mkdir(parents=True)
    path.write_text(Supervisor(config)._configuration(list(SERVERS)), encoding="utf-8")
    options = ServerOptions()
    options.realize(["-n", "-c", str(path)])
    return options


@pytest.mark.parametrize("folder", ["home", ODD])
def test_the_supervisor_understands_its_file(tmp_path: Path, folder: str) -> None:
    """It knows every server in order, each with the command, the log and the stop that it needs."""
    config = LocalConfig.with_free_ports(tmp_path / folder)
    options = understood(config, tmp_path / "supervisord.conf")
    programs = [group.process_configs[0] for group in options.process_group_configs]
    assert [program.name for program in programs] == [server.name for server in SERVERS]
    for program, server in zip(programs, SERVERS, strict=True):
        assert shlex.split(program.command) == launcher(spec_path(config, server.name))
        assert program.stdout_logfile == str(config.log(server.name))
        assert (program.stopsignal, program.stopwaitsecs) == (server.stop.signum, server.stop.seconds)
        assert program.startsecs == server.settle_seconds
        assert program.redirect_stderr
        assert program.killasgroup
        assert not program.autostart


@pytest.mark.parametrize("folder", ["home", ODD])
def test_nobody_else_can_reach_the_supervisor(tmp_path: Path, folder: str) -> None:
    """It listens on a socket file of its owner's, and on no port."""
    config = LocalConfig.with_free_ports(tmp_path / folder)
    (listener,) = understood(config, tmp_path / "supervisord.conf").server_configs
    assert listener["file"] == str(Supervisor(config)._socket)
    assert listener["chmod"] == 0o700


@pytest.mark.parametrize("length", [1, 300])
def test_a_long_home_has_a_short_socket(tmp_path: Path, length: int) -> None:
    """A path of a socket has room for about a hundred bytes; elsewhere it is the same for one home, and its own."""
    homes = [tmp_path / ("x" * 100) / ("y" * 100) / f"{number:0{length // 3}}" for number in range(2)]
    sockets = [Supervisor(LocalConfig(home=home))._socket for home in (*homes, homes[0])]
    assert all(len(os.fsencode(socket)) <= 100 for socket in sockets)
    assert sockets[0] == sockets[2]
    assert sockets[0] != sockets[1]


def test_without_a_supervisor_nothing_runs(context: Context) -> None:
    """It is not asked, and to end it is no error."""
    supervisor = Supervisor(context.config)
    assert not supervisor.alive
    assert supervisor.states() == {}
    supervisor.shut_down(seconds=1)
    supervisor.remove_socket()


def test_a_supervisor_that_is_silent_is_named(context: Context) -> None:
    """It lives and does not answer on its socket: the message says how to end it."""
    records.folder(context.config.run).mkdir(parents=True)
    write_record(records.path(context.config.run, records.SUPERVISOR), records.SUPERVISOR)
    supervisor = Supervisor(context.config)
    assert supervisor.alive
    with pytest.raises(ServerError, match=r"does not answer \(\w+Error\)\. End it .* stack down"):
        supervisor.states()


@pytest.mark.parametrize(
    ("state", "up"),
    [("RUNNING", True), ("STARTING", True), ("BACKOFF", True), ("FATAL", False), ("STOPPED", False), ("EXITED", False)],
)
def test_what_counts_as_up(state: str, up: bool) -> None:
    """What the supervisor still starts again by itself is up; what it gave up or was told to stop is not."""
    assert ProgramState("kafka", state, 0, 0.0, "").up is up


def test_a_start_inherits_little(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the shell has set, every start is the same: the few common variables, and what the server was given."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("MILLRACE_SHARDS", "9")
    monkeypatch.setenv("TZ", "UTC")
    path = write_spec(context.config, "kafka", Launch(("/bin/true",), Path("/"), {"OWN": "1"}))
    environment = json.loads(path.read_text())["environment"]
    assert environment["OWN"] == "1"
    assert environment["TZ"] == "UTC"
    assert "127.0.0.1" in environment["NO_PROXY"]
    assert not {"PYTHONPATH", "MILLRACE_SHARDS"} & set(environment)


def test_launch_costs_no_imports(context: Context) -> None:
    """It runs at every start, also after a crash: Python without site, with a file of the standard library alone."""
    interpreter, *flags, script, spec = launcher(spec_path(context.config, "kafka"))
    assert interpreter == sys.executable
    assert flags == ["-I", "-S"]
    assert Path(script).name == "launch.py"
    assert spec == str(spec_path(context.config, "kafka"))
    source = Path(script).read_text(encoding="utf-8")
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported - {"__future__"} <= set(sys.stdlib_module_names) | {"pathlib"}


CHANGES: dict[str, Callable[[Context], dict[str, Any]]] = {
    "port": lambda context: {"ports": {**context.config.ports, "reader": 1}},
    "redis": lambda context: {"ports": {**context.config.ports, "redis": 1}},
    "environment": lambda _: {"extra_environment": {"MORE": "1"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_another_server(context: Context, change: str) -> None:
    """A server differs from the one that was started when its port, its environment or what it needs has moved."""
    (server,) = (server for server in SERVERS if server.name == "reader")
    server.write_spec(context)
    assert not server.differs(context)
    changed = replace(context.config, **CHANGES[change](context))
    assert server.differs(replace(context, config=changed))


def test_another_heap_is_another_server(context: Context) -> None:
    """The heap stands in a file and in no argument, and counts all the same; that of another server does not."""
    (server,) = (server for server in SERVERS if server.name == "mongo")
    server.write_spec(context)
    for name, differs in (("kafka", False), ("mongo", True)):
        changed = replace(context.config, heaps={**context.config.heaps, name: "999m"})
        assert server.differs(replace(context, config=changed)) is differs


def test_all_servers_without_names() -> None:
    """Nothing chosen is everything."""
    assert choose(None) == list(SERVERS)


def test_a_chosen_server_brings_what_it_needs() -> None:
    """What it needs, and what that needs, each once and in order of priority."""
    assert [server.name for server in choose(["reader", "redis"])] == ["redis", "reader"]
    assert [server.name for server in choose(["triggerer"])] == ["postgres", "api-server", "triggerer"]
    assert choose([]) == []


def test_what_is_needed_is_started_first() -> None:
    """Servers need servers that there are; what is needed has priority over what needs it."""
    names = [server.name for server in SERVERS]
    for server in SERVERS:
        assert all(names.index(need) < names.index(server.name) for need in server.needs)


def test_a_server_is_stopped_before_what_it_needs() -> None:
    """Clients go first: Airflow's workers before its API, that before PostgreSQL, the reader before Redis."""
    order = {server.name: server.stop.order for server in SERVERS}
    for server in SERVERS:
        assert all(order[server.name] < order[need] for need in server.needs)


def test_a_name_that_is_no_server() -> None:
    """The message has the name, and those that there are."""
    with pytest.raises(ConfigurationError, match=r"no server 'karfka'; there are: .*kafka"):
        choose(["redis", "karfka"])


def test_a_server_is_described_by_what_it_becomes(context: Context) -> None:
    """The settings that are kept are JSON: what is read back equals what is compared with it."""
    server = Server("odd", ("redis",), lambda _: Launch(("/bin/true", "1"), Path("/"), {"A": "1"}), lambda _: None)
    settings = server.settings(context)
    assert json.loads(json.dumps(settings)) == settings
