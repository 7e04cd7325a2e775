"""How the stack of a chaos run reaches its servers through the proxies."""

from __future__ import annotations

import json
from pathlib import Path

from stack.installation import config_on_free_ports, load_secrets
from tests.chaos.cluster import add_listener, proxied_environment
from tests.chaos.schedule import PROXIED


def test_every_connection_leads_to_a_proxy(tmp_path: Path) -> None:
    """No connection names the port of a server, and each proxy is used by one; the reader's address of Redis too."""
    config = config_on_free_ports(tmp_path)
    listening = {server: 40_000 + number for number, server in enumerate(PROXIED)}
    environment = proxied_environment(config, load_secrets(config), listening)
    connections = {name: value for name, value in environment.items() if name.startswith("AIRFLOW_CONN_")}
    assert len(connections) == len(PROXIED)
    assert all(any(str(port) in value for value in connections.values()) for port in listening.values())
    assert not any(str(port) in value for port in config.ports.values() for value in environment.values())
    assert str(listening["redis"]) in environment["MILLRACE_REDIS_URL"]
    assert json.loads(connections["AIRFLOW_CONN_NEO4J_DEFAULT"])["extra"]["scheme"] == "bolt"


def test_kafka_advertises_the_proxy() -> None:
    """The added listener has the address of the proxy for clients, and nothing else changes."""
    properties = "node.id=1\nlisteners=A://h:1,B://h:2\nadvertised.listeners=A://h:1\n"
    changed = "node.id=1\nlisteners=A://h:1,B://h:2,PROXIED://127.0.0.1:5\n"
    changed += "advertised.listeners=A://h:1,PROXIED://127.0.0.1:6\n"
    assert add_listener(properties, 5, 6) == changed
