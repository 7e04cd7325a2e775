"""Airflow's connections and variables into Settings. Read inside tasks only, never while a DAG is parsed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from airflow.sdk import Connection, Variable

from include.errors import ConfigurationError
from include.settings import (
    EmbedSettings,
    KafkaSettings,
    MilvusSettings,
    MongoSettings,
    Neo4jSettings,
    PipelineSettings,
    RedisSettings,
    WarehouseSettings,
    pipeline_settings,
)

KAFKA = "kafka_default"
MONGO = "mongo_default"
MILVUS = "milvus_default"
NEO4J = "neo4j_default"
WAREHOUSE = "warehouse_default"
REDIS = "redis_default"
EMBED = "embed_default"

#: Read with the prefix millrace_ from Airflow's variables; without one, the default of PipelineSettings holds.
_VARIABLES = ("batch_size", "as_of", "list_ttl_minutes", "active_days", "users_per_chunk")


def kafka() -> KafkaSettings:
    """Everything in ``extra``, as Airflow's Kafka provider has it; topic and dead_letter_topic may stand there too."""
    return KafkaSettings.from_properties(Connection.get(KAFKA).extra_dejson)


def mongo() -> MongoSettings:
    """``schema`` names the database; every key of ``extra`` becomes an option of the address (``srv`` its scheme)."""
    connection = Connection.get(MONGO)
    options = dict(connection.extra_dejson)
    scheme = "mongodb+srv" if str(options.pop("srv", "")).lower() == "true" else "mongodb"
    query = _query(options)
    uri = f"{scheme}://{_login(connection)}{_host(connection, MONGO)}/{query}"
    return MongoSettings(uri=uri, database=connection.schema or "millrace")


def milvus() -> MilvusSettings:
    """``extra`` may set uri, token and message_index (IVF_FLAT, HNSW or FLAT)."""
    connection = Connection.get(MILVUS)
    extra = connection.extra_dejson
    uri = extra.get("uri") or f"http://{_host(connection, MILVUS)}"
    token = extra.get("token") or (f"{connection.login}:{connection.password or ''}" if connection.login else "")
    index = extra.get("message_index", MilvusSettings.message_index)
    if index not in ("IVF_FLAT", "HNSW", "FLAT"):
        raise ConfigurationError(f"connection {MILVUS}: message_index is {index!r}; it must be IVF_FLAT, HNSW or FLAT")
    return MilvusSettings(uri=uri, token=token, message_index=index)


def neo4j() -> Neo4jSettings:
    """``extra`` may set scheme (neo4j, neo4j+s, bolt ...); ``schema`` names the database."""
    connection = Connection.get(NEO4J)
    return Neo4jSettings(
        uri=f"{connection.extra_dejson.get('scheme', 'neo4j')}://{_host(connection, NEO4J)}",
        user=connection.login or "neo4j",
        password=connection.password or "",
        database=connection.schema or "neo4j",
    )


def warehouse() -> WarehouseSettings:
    """A postgres connection; ``schema`` names the database, ``extra`` holds libpq options."""
    connection = Connection.get(WAREHOUSE)
    query = _query(connection.extra_dejson)
    database = connection.schema or "warehouse"
    return WarehouseSettings(dsn=f"postgresql://{_login(connection)}{_host(connection, WAREHOUSE)}/{database}{query}")


def redis() -> RedisSettings:
    """``extra`` may set db (0) and ssl (false)."""
    connection = Connection.get(REDIS)
    extra = connection.extra_dejson
    scheme = "rediss" if str(extra.get("ssl", "")).lower() == "true" else "redis"
    password = quote(connection.password or "", safe="")
    login = f"{quote(connection.login or '', safe='')}:{password}@" if password else ""
    return RedisSettings(url=f"{scheme}://{login}{_host(connection, REDIS)}/{extra.get('db', 0)}")


def embed() -> EmbedSettings:
    """An http connection; the password is the API key, ``extra`` may set url, model, revision and dimension."""
    connection = Connection.get(EMBED)
    extra = connection.extra_dejson
    default = EmbedSettings(url="")
    return EmbedSettings(
        url=extra.get("url") or f"{connection.schema or 'http'}://{_host(connection, EMBED)}/v1",
        api_key=connection.password or "",
        model=extra.get("model", default.model),
        revision=str(extra.get("revision", default.revision)),
        dimension=_dimension(extra.get("dimension", default.dimension)),
    )


def pipeline() -> PipelineSettings:
    """Airflow's variables over the environment (MILLRACE_SHARDS, MILLRACE_BATCH_PATH) over the defaults."""
    values: dict[str, str] = static_values(os.environ)
    for name in _VARIABLES:
        value = Variable.get(f"millrace_{name}", default=None)
        if value is not None:
            values[name] = str(value)
    return pipeline_settings(values)


def static_values(environment: Mapping[str, str]) -> dict[str, str]:
    """What must be known while a DAG is parsed, from the environment."""
    names = {"MILLRACE_SHARDS": "shards", "MILLRACE_BATCH_PATH": "batch_path", "MILLRACE_BATCH_SIZE": "batch_size"}
    return {ours: environment[name] for name, ours in names.items() if environment.get(name)}


def _host(connection: Any, conn_id: str) -> str:
    if not connection.host:
        raise ConfigurationError(
            f"connection {conn_id} has no host: set it in Airflow or as AIRFLOW_CONN_{conn_id.upper()}"
        )
    return f"{connection.host}:{connection.port}" if connection.port else str(connection.host)


def _dimension(value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigurationError(f"connection {EMBED}: dimension is {value!r}; it must be a whole number above 0")
    return int(text)


def _query(options: Mapping[str, object]) -> str:
    """As drivers read it: JSON's true is ``true``, and a blank is no plus (libpq would keep that)."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
    return f"?{urlencode(texts, quote_via=quote)}" if texts else ""


def _login(connection: Any) -> str:
    if not connection.login:
        return ""
    return f"{quote(connection.login, safe='')}:{quote(connection.password or '', safe='')}@"
