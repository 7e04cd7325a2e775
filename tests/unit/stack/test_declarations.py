"""The declarations of the servers: discovered, ordered and checked against each other."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest

from include.errors import ConfigurationError
from stack import servers
from stack.credentials import random_token
from stack.jars import read_lock
from stack.server import Launch, Server
from stack.servers import SERVERS, choose, order_servers


def server(name: str, priority: int = 0, **fields: Any) -> Server:
    launch = Launch(("/bin/true",), Path("/"))
    return Server(name=name, priority=priority, launch=lambda _: launch, check_health=lambda _: None, **fields)


def test_every_file_declares_servers() -> None:
    """A file in the folder is all that a new server needs."""
    modules = [getattr(servers, entry.name) for entry in pkgutil.iter_modules(servers.__path__)]
    declared = [server for module in modules for server in module.SERVERS]
    assert len(declared) == len(SERVERS)
    assert all(server in SERVERS for server in declared)


def test_the_start_order_is_stable() -> None:
    """The order is that of priority: slow servers first, Airflow's workers and the reader last."""
    names = [server.name for server in SERVERS]
    assert names == [
        *("postgres", "neo4j", "milvus", "kafka", "mongo", "redis"),
        *("api-server", "embed", "scheduler", "dag-processor", "triggerer", "reader"),
    ]


def test_servers_are_ordered_by_priority_and_name() -> None:
    """The order does not depend on the order of the files."""
    a, b, c = server("a", 2), server("b", 1), server("c", 1)
    assert order_servers([a, c, b]) == order_servers([b, a, c]) == (b, c, a)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"name": "a"}, {"name": "a"}, "the name 'a'"),
        ({"name": "a", "ports": {"p": 1}}, {"name": "b", "ports": {"p": 2}}, "the port name 'p'"),
        ({"name": "a", "ports": {"p": 1}}, {"name": "b", "ports": {"q": 1}}, "the default port 1"),
        (
            {"name": "a", "secrets": {"s": random_token}},
            {"name": "b", "secrets": {"s": random_token}},
            "the secret 's'",
        ),
    ],
)
def test_duplicates_are_rejected(one: dict[str, Any], other: dict[str, Any], message: str) -> None:
    """Two servers with the same name, port or secret are an error that names it."""
    with pytest.raises(ConfigurationError, match=f"two servers in stack/servers declare {message}: change one"):
        order_servers([server(**one), server(**other)])


def test_a_duplicate_within_one_server_is_rejected() -> None:
    """One server cannot listen twice on the same port either."""
    with pytest.raises(ConfigurationError, match="the default port 1"):
        order_servers([server("a", ports={"p": 1, "q": 1})])


def test_an_unknown_need_is_rejected() -> None:
    """A misspelt dependency is an error at once rather than an endless wait."""
    with pytest.raises(ConfigurationError, match="a needs 'karfka', which no file in stack/servers declares"):
        order_servers([server("a", needs=("karfka",))])


def test_a_file_without_servers_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that forgets to declare SERVERS is an error that names the file."""
    (tmp_path / "forgetful.py").write_text("SERVER = ()\n")
    monkeypatch.setattr(servers, "__path__", [str(tmp_path)])
    try:
        with pytest.raises(ConfigurationError, match=rf"^{tmp_path}/forgetful.py does not declare SERVERS"):
            list(servers._discover())
    finally:
        sys.modules.pop("stack.servers.forgetful", None)


def test_every_locked_jar_belongs_to_a_server() -> None:
    """Each server with jars is in the lock file, and no other."""
    assert {jar.server for jar in read_lock()} == {server.name for server in SERVERS if server.jars}


def test_all_servers_by_default() -> None:
    """Without names every server is chosen."""
    assert choose(None) == list(SERVERS)


def test_a_chosen_server_brings_the_servers_it_needs() -> None:
    """Direct and indirect needs are included once each, by priority."""
    assert [server.name for server in choose(["reader", "redis"])] == ["redis", "reader"]
    assert [server.name for server in choose(["triggerer"])] == ["postgres", "api-server", "triggerer"]
    assert choose([]) == []


def test_needed_servers_come_first() -> None:
    """A server has a later place in the order than every server it needs."""
    names = [server.name for server in SERVERS]
    for server in SERVERS:
        assert all(names.index(need) < names.index(server.name) for need in server.needs)


def test_a_server_stops_before_the_servers_it_needs() -> None:
    """Clients stop first: Airflow's workers before its API, the API before PostgreSQL, the reader before Redis."""
    order = {server.name: server.stop.order for server in SERVERS}
    for server in SERVERS:
        assert all(order[server.name] < order[need] for need in server.needs)


def test_an_unknown_name_is_reported() -> None:
    """The message includes the name and lists the servers."""
    with pytest.raises(ConfigurationError, match=r"unknown server 'karfka'; choose from: .*kafka"):
        choose(["redis", "karfka"])
