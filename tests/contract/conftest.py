"""Real servers for the contract suites: started once per session, and only those that its tests need.

For quick development, ``MILLRACE_TEST_HOME`` is the home of a stack that is already running (with its
``MILLRACE_PORT_*``). Every test uses unique names (topic, collection, database, user), so no server is ever emptied.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.settings import KafkaSettings, MilvusSettings, MongoSettings, Neo4jSettings, RedisSettings
from stack.installation import config_on_free_ports, read_config
from stack.stack import Stack
from tests.canary import LeakCheck
from tests.contract.local_stack import ReportLog, temporary_stack

if TYPE_CHECKING:
    from tests.contract.event_stores import Stores


@dataclass
class Servers:
    """The servers of a session. ``required`` are those that its tests declare; they are started together."""

    stack: Stack
    required: frozenset[str]
    managed: bool
    up: set[str] = field(default_factory=set)

    def environment(self, name: str) -> Mapping[str, str]:
        """The settings that a client of this server needs. Starts the server if it is not running."""
        if self.managed and name not in self.up:
            starting = ({name} | self.required) - self.up
            self.stack.up(starting)
            self.up |= starting
        return self.stack.environment()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Every local server, none started yet."""
    marks = [mark for item in request.session.items for mark in item.iter_markers("servers")]
    required = frozenset(name for mark in marks for name in mark.args)
    running = os.environ.get("MILLRACE_TEST_HOME")
    if running:
        yield Servers(Stack(read_config(os.environ, Path(running))), required, managed=False)
        return
    # Not pytest's own folder: PostgreSQL may run as another user, who has to be able to enter. And a name that every
    # server has to cope with.
    home = Path(tempfile.mkdtemp(prefix="millrace José Ñ "))
    stack = Stack(config_on_free_ports(home))
    try:
        yield Servers(stack, required, managed=True)
    finally:
        stack.reset()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def unique() -> str:
    """A name that no other test uses: letters and digits, beginning with a letter."""
    return _unique()


def _unique() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def kafka_settings(servers: Servers, unique: str) -> KafkaSettings:
    """Topics and a group for this test only; the topics do not exist yet."""
    bootstrap = servers.environment("kafka")["MILLRACE_KAFKA_BOOTSTRAP"]
    return KafkaSettings(bootstrap, topic=unique, dead_letter_topic=f"{unique}.dead-letters", group=unique)


@pytest.fixture
def mongo_settings(servers: Servers, unique: str) -> Iterator[MongoSettings]:
    """A database for this test only."""
    from pymongo import MongoClient

    settings = MongoSettings(servers.environment("mongo")["MILLRACE_MONGO_URI"], database=unique)
    yield settings
    with MongoClient[dict[str, object]](settings.uri) as client:
        client.drop_database(unique)


@pytest.fixture
def milvus_settings(servers: Servers, unique: str) -> Iterator[MilvusSettings]:
    """Collections for this test only."""
    yield from _milvus(servers, unique)


@pytest.fixture(scope="session")
def shared_milvus_settings(servers: Servers) -> Iterator[MilvusSettings]:
    """Collections for the whole session, because loading one takes seconds: tests use different user names."""
    yield from _milvus(servers, _unique())


def _milvus(servers: Servers, name: str) -> Iterator[MilvusSettings]:
    from pymilvus import MilvusClient

    uri = servers.environment("milvus")["MILLRACE_MILVUS_URI"]
    settings = MilvusSettings(uri, message_collection=f"m_{name}", profile_collection=f"p_{name}")
    yield settings
    client = MilvusClient(uri, timeout=10)
    for alias in (settings.message_collection, settings.profile_collection):
        if client.has_collection(alias, timeout=10):
            client.drop_alias(alias, timeout=10)
    for collection in client.list_collections(timeout=10):
        if name in collection:
            client.drop_collection(collection, timeout=10)
    client.close()


@pytest.fixture
def neo4j_settings(servers: Servers) -> Neo4jSettings:
    """All tests share the only database, and use different names for users and items."""
    environment = servers.environment("neo4j")
    return Neo4jSettings(environment["MILLRACE_NEO4J_URI"], password=environment["MILLRACE_NEO4J_PASSWORD"])


@pytest.fixture
def warehouse_dsn(servers: Servers, unique: str) -> Iterator[str]:
    """An empty database for this test only."""
    import psycopg2

    dsn = servers.environment("postgres")["MILLRACE_WAREHOUSE_DSN"]
    admin = servers.stack.secrets["postgres_admin"]
    address = servers.stack.config.address("postgres")
    connection = psycopg2.connect(f"postgresql://admin:{admin}@{address}/postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {unique} OWNER warehouse")
        yield f"{dsn.rpartition('/')[0]}/{unique}"
        cursor.execute(f"DROP DATABASE {unique} WITH (FORCE)")
    connection.close()


@pytest.fixture
def redis_settings(servers: Servers) -> RedisSettings:
    """All tests share one database, and use different names for generations and users."""
    return RedisSettings(servers.environment("redis")["MILLRACE_REDIS_URL"])


@pytest.fixture
def leak(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> LeakCheck:
    """Reads what is logged, from Airflow's default level on."""
    caplog.set_level(logging.INFO)
    return LeakCheck(caplog, capfd)


@pytest.fixture
def reports() -> ReportLog:
    """What a test's own stack reports."""
    return ReportLog()


@pytest.fixture
def stack(reports: ReportLog) -> Iterator[Stack]:
    """A stack that one test starts, stops and breaks; ``servers`` is the one that tests share."""
    with temporary_stack(reports) as stack:
        yield stack


@pytest.fixture
def stores(
    unique: str,
    mongo_settings: MongoSettings,
    shared_milvus_settings: MilvusSettings,
    neo4j_settings: Neo4jSettings,
    warehouse_dsn: str,
    tmp_path: Path,
) -> Iterator[Stores]:
    """All stores of events have the same 30, and nothing is left to recompute."""
    from tests.contract.event_stores import open_stores

    with open_stores(unique, mongo_settings, shared_milvus_settings, neo4j_settings, warehouse_dsn, tmp_path) as stores:
        yield stores
