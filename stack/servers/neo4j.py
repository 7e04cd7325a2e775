"""Neo4j 5.26: the community kernel with Bolt and a password, no HTTP."""

from __future__ import annotations

from dataclasses import replace

from stack import java
from stack.config import LOOPBACK, LocalConfig
from stack.credentials import write_private
from stack.server import Context, Launch, Server, Stop

_OPTIONS = (
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
)


def _configuration(config: LocalConfig) -> dict[str, str]:
    """Small, and silent towards the vendor. The kernel checks the names: a wrong one stops the start."""
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
    folder.mkdir(parents=True, exist_ok=True)
    file = config.run / "neo4j.conf"
    write_private(file, "".join(f"{name}={value}\n" for name, value in _configuration(config).items()))
    java.write_settings(context, "neo4j", _OPTIONS, {"folder": str(folder), "file": str(file)})


def _launch(context: Context) -> Launch:
    base = java.embedded(context, "neo4j")
    return replace(base, environment={**base.environment, "MILLRACE_NEO4J_PASSWORD": context.secrets.neo4j})


def _answers(context: Context) -> None:
    from neo4j import GraphDatabase

    uri = f"bolt://{context.config.address('neo4j')}"
    login = ("neo4j", context.secrets.neo4j)
    # A session of its own and no managed transaction: that would try again by itself for half a minute.
    with GraphDatabase.driver(uri, auth=login, connection_timeout=2) as driver, driver.session() as session:
        session.run("RETURN 1").consume()


SERVER = Server(
    name="neo4j",
    ports=("neo4j",),
    prepare=_prepare,
    launch=_launch,
    answers=_answers,
    start_seconds=180,
    settle_seconds=6,
    stop=Stop(seconds=25),
)
