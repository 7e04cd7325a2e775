"""Airflow's connections and variables as settings, read as a task reads AIRFLOW_CONN_* and AIRFLOW_VAR_*.

Addresses are parsed with the drivers' own parsers, because what the driver understands is what counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from dag_factories.connections import AirflowSettings
from include.errors import ConfigurationError
from include.settings import (
    EmbedSettings,
    KafkaSettings,
    MilvusSettings,
    Neo4jSettings,
    PipelineSettings,
    StoreSettings,
)

type Set = Callable[..., None]

ODD = "p@ss:w/rd?#[]%20 +&=é'\"\\"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the connections, variables and settings that a test sets."""
    for name in list(os.environ):
        if name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_", "MILLRACE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets one connection from its fields."""

    def set_connection(conn_id: str, **fields: Any) -> None:
        kind = conn_id.removesuffix("_default")
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": kind, **fields}))

    return set_connection


def test_a_mongo_address_is_what_the_driver_reads(connect: Set) -> None:
    """Login and password with any character, options from extra, and the database from schema."""
    from pymongo.uri_parser import parse_uri

    extra = {"authSource": "admin", "replicaSet": "rs 0", "tls": True, "maxPoolSize": 5}
    connect("mongo_default", host="mongo", port=27018, login=ODD, password=ODD, schema="shop", extra=extra)
    settings = AirflowSettings().mongo
    parsed = parse_uri(settings.uri)
    assert parsed["nodelist"] == [("mongo", 27018)]
    assert (parsed["username"], parsed["password"]) == (ODD, ODD)
    options = {name.lower(): value for name, value in parsed["options"].items()}
    assert options == {"authsource": "admin", "replicaset": "rs 0", "tls": True, "maxpoolsize": 5}
    assert settings.database == "shop"


@pytest.mark.parametrize(("srv", "scheme"), [("true", "mongodb+srv"), (True, "mongodb+srv"), ("false", "mongodb")])
def test_mongo_by_a_service_record(connect: Set, srv: object, scheme: str) -> None:
    """srv selects the scheme of the address, as text or as JSON's true; without a login the address has none."""
    connect("mongo_default", host="cluster.internal", extra={"srv": srv})
    assert AirflowSettings().mongo.uri == f"{scheme}://cluster.internal/"
    assert AirflowSettings().mongo.database == "millrace"


def test_a_warehouse_address_is_what_the_driver_reads(connect: Set) -> None:
    """Login and password with any character, libpq options with blanks, and the database from schema."""
    from psycopg2.extensions import parse_dsn

    extra = {"sslmode": "verify-full", "target_session_attrs": "read-write", "sslrootcert": "/a folder/ca+x.pem"}
    connect("warehouse_default", host="pg", port=5433, login=ODD, password=ODD, schema="shop", extra=extra)
    expected = {"host": "pg", "port": "5433", "user": ODD, "password": ODD, "dbname": "shop", **extra}
    assert parse_dsn(AirflowSettings().warehouse.dsn) == expected


def test_a_warehouse_needs_only_its_host(connect: Set) -> None:
    """The database has a default, and libpq supplies the login."""
    from psycopg2.extensions import parse_dsn

    connect("warehouse_default", host="pg")
    assert parse_dsn(AirflowSettings().warehouse.dsn) == {"host": "pg", "dbname": "warehouse"}


@pytest.mark.parametrize("login", [None, "reader", ODD])
def test_a_redis_address_is_what_the_driver_reads(connect: Set, login: str | None) -> None:
    """A password with any character, with or without a user, the database number, and TLS."""
    from redis.connection import SSLConnection, parse_url

    connect("redis_default", host="redis", port=6380, login=login, password=ODD, extra={"db": 3, "ssl": True})
    parsed = parse_url(AirflowSettings().redis.url)  # type: ignore[no-untyped-call]
    assert (parsed["host"], parsed["port"], parsed["db"]) == ("redis", 6380, 3)
    assert (parsed.get("username"), parsed["password"]) == (login, ODD)
    assert parsed["connection_class"] is SSLConnection


def test_a_redis_without_a_password(connect: Set) -> None:
    """A server without a login is supported."""
    connect("redis_default", host="redis", port=6379)
    assert AirflowSettings().redis.url == "redis://redis:6379/0"


def test_a_connection_may_be_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's URI form of a connection is read too."""
    monkeypatch.setenv("AIRFLOW_CONN_NEO4J_DEFAULT", "neo4j://me:p%40ss@graph:7688/shop?scheme=neo4j%2Bs")
    assert AirflowSettings().neo4j == Neo4jSettings("neo4j+s://graph:7688", "me", "p@ss", "shop")


def test_neo4j_has_defaults(connect: Set) -> None:
    """Scheme, user and database are optional."""
    connect("neo4j_default", host="graph")
    assert AirflowSettings().neo4j == Neo4jSettings("neo4j://graph", "neo4j", "", "neo4j")


def test_milvus_by_host_or_by_uri(connect: Set) -> None:
    """Login and password become the token; uri and token in extra override them."""
    connect("milvus_default", host="milvus", port=19530)
    assert AirflowSettings().milvus == MilvusSettings("http://milvus:19530")
    connect("milvus_default", host="milvus", port=19530, login="root", password="a:b")
    assert AirflowSettings().milvus == MilvusSettings("http://milvus:19530", "root:a:b")
    connect("milvus_default", host="milvus", login="root")
    assert AirflowSettings().milvus.token == "root:"
    connect("milvus_default", extra={"uri": "https://m", "token": "t", "message_index": "HNSW"})
    assert AirflowSettings().milvus == MilvusSettings("https://m", "t", message_index="HNSW")


def test_an_index_that_does_not_exist_is_named(connect: Set) -> None:
    """The error names the connection, the value and the allowed ones."""
    connect("milvus_default", host="milvus", extra={"message_index": "hnsw"})
    with pytest.raises(ConfigurationError, match=r"milvus_default.*'hnsw'.*IVF_FLAT, HNSW or FLAT"):
        _ = AirflowSettings().milvus


def test_embedding_by_host_or_by_url(connect: Set) -> None:
    """Host, port and schema form the url, the password is the key; extra overrides url, model and dimension."""
    connect("embed_default", host="embed", port=8090, password="key")
    assert AirflowSettings().embed == EmbedSettings("http://embed:8090/v1", "key")
    connect("embed_default", host="embed", schema="https")
    assert AirflowSettings().embed == EmbedSettings("https://embed/v1")
    connect("embed_default", extra={"url": "https://e/v1", "model": "m", "revision": 2, "dimension": "768"})
    assert AirflowSettings().embed == EmbedSettings("https://e/v1", "", "m", "2", 768)


@pytest.mark.parametrize("dimension", ["many", 0, -1, 1.5, True])
def test_a_wrong_dimension_is_named(connect: Set, dimension: object) -> None:
    """The task fails at once with the connection and the value, instead of being retried for half an hour."""
    connect("embed_default", host="embed", extra={"dimension": dimension})
    with pytest.raises(ConfigurationError, match=r"embed_default: dimension is "):
        _ = AirflowSettings().embed


def test_kafka_is_all_in_extra(connect: Set) -> None:
    """Millrace's own keys are removed; every other property reaches the clients."""
    extra = {"bootstrap.servers": "k1:1,k2:2", "group.id": "g", "topic": "t", "dead_letter_topic": "d"}
    connect("kafka_default", extra={**extra, "sasl.password": ODD})
    assert AirflowSettings().kafka == KafkaSettings("k1:1,k2:2", "t", "d", "g", {"sasl.password": ODD})


@pytest.mark.parametrize("name", ["mongo", "milvus", "neo4j", "warehouse", "redis", "embed"])
def test_a_missing_host_is_named(connect: Set, name: str) -> None:
    """The error names the connection, and the variable that sets it."""
    connect(f"{name}_default", login="u", password="password")
    with pytest.raises(ConfigurationError, match=rf"{name}_default has no host.* AIRFLOW_CONN_{name.upper()}_DEFAULT$"):
        getattr(AirflowSettings(), name)


def test_kafka_without_servers_is_named(connect: Set) -> None:
    """A host is not enough: the error shows what extra must contain."""
    connect("kafka_default", host="kafka", port=9092)
    with pytest.raises(ConfigurationError, match=r"kafka_default.*bootstrap\.servers"):
        _ = AirflowSettings().kafka


def test_without_variables_the_defaults_apply() -> None:
    """None of the pipeline's numbers has to be set."""
    assert AirflowSettings().pipeline == PipelineSettings()


def test_variables_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Airflow variable wins over the environment, which wins over the default."""
    monkeypatch.setenv("MILLRACE_SHARDS", "64")
    monkeypatch.setenv("MILLRACE_BATCH_PATH", "s3://bucket/x")
    monkeypatch.setenv("MILLRACE_BATCH_SIZE", "100")
    assert AirflowSettings().pipeline == PipelineSettings(shards=64, batch_size=100, batch_path="s3://bucket/x")
    monkeypatch.setenv("AIRFLOW_VAR_MILLRACE_BATCH_SIZE", "200\n")
    monkeypatch.setenv("AIRFLOW_VAR_MILLRACE_SHARDS", "2")
    settings = AirflowSettings().pipeline
    assert settings.batch_size == 200
    assert settings.shards == 64, "shards is known while a DAG is parsed: no variable may say otherwise in a task"


def test_every_variable_sets_its_own_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two variables are mixed up."""
    values = {
        "batch_size": "7",
        "as_of": "newest_event",
        "list_ttl_minutes": "5",
        "active_days": "all",
        "users_per_chunk": "9",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"AIRFLOW_VAR_MILLRACE_{name.upper()}", value)
    expected = PipelineSettings(batch_size=7, as_of="newest_event", list_ttl_s=300, active_days=None, users_per_chunk=9)
    assert AirflowSettings().pipeline == expected


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, its value and what it should be."""
    monkeypatch.setenv("AIRFLOW_VAR_MILLRACE_LIST_TTL_MINUTES", "60")
    with pytest.raises(ConfigurationError, match=r"millrace_list_ttl_minutes.*'60'.*5 to 15"):
        _ = AirflowSettings().pipeline


@pytest.mark.parametrize("name", ["kafka", "mongo", "milvus", "neo4j", "warehouse", "redis", "embed"])
def test_a_memory_connection_selects_the_adapter_in_memory(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """AIRFLOW_CONN_<ID>=memory://name gives that address as it is, for a dry run."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}_DEFAULT", "memory://dry-run")
    section = getattr(AirflowSettings(), name)
    assert "memory://dry-run" in [getattr(section, field.name) for field in fields(section)]


def test_a_store_without_a_section_has_an_address_and_options(connect: Set) -> None:
    """A sink that is added reads the connection <name>_default: its fields, or the url in its extra."""
    connect("search_default", host="es", port=9200, login="u", password="p/w", schema="events", extra={"tls": True})
    assert AirflowSettings().store("search") == StoreSettings("search://u:p%2Fw@es:9200/events", {"tls": "true"})
    connect("search_default", extra={"url": "https://es", "index": "e"})
    assert AirflowSettings().store("search") == StoreSettings("https://es", {"index": "e"})


def test_a_scheduled_run_refuses_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task of a scheduled run is a separate process, so a store in memory would lose the batch before commit."""
    from airflow.sdk.execution_time import task_runner

    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEFAULT", "memory://dry-run")
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", object(), raising=False)
    with pytest.raises(ConfigurationError, match=r"mongo_default is in memory.*dag\.test"):
        _ = AirflowSettings().mongo
