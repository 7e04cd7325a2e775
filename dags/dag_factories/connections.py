"""Airflow's connections and variables as ``Settings``. Read inside tasks only, never while a DAG is parsed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from urllib.parse import quote

from airflow.sdk import Connection, Variable

from connection_fields import build_query, host_of, login_of, warehouse_settings
from include.errors import ConfigurationError
from include.settings import (
    MEMORY_SCHEME,
    MESSAGE_INDEXES,
    EmbedSettings,
    KafkaSettings,
    MilvusSettings,
    MongoSettings,
    Neo4jSettings,
    PipelineSettings,
    RedisSettings,
    StoreSettings,
    WarehouseSettings,
    pipeline_settings,
)
from include.settings_parser import SettingsParser, option_text

KAFKA = "kafka_default"
MONGO = "mongo_default"
MILVUS = "milvus_default"
NEO4J = "neo4j_default"
WAREHOUSE = "warehouse_default"
REDIS = "redis_default"
EMBED = "embed_default"

#: Read from Airflow's variables with the prefix millrace_; a missing one takes the default of PipelineSettings.
_VARIABLES = (
    "batch_size", "batch_bytes", "max_reject_percent", "reject_window",
    "as_of", "list_ttl_minutes", "active_days", "users_per_chunk", "train_every_days", "train_min_engagements",
    "keep_events_days", "keep_batches_days", "keep_failed_days", "keep_text_vectors_days", "keep_dead_letters_days",
)  # fmt: skip
#: Needed while a DAG is parsed, and therefore read from the environment of Airflow's processes.
_STATIC_VARIABLES = ("shards", "batch_path", "batch_size")


class AirflowSettings:
    """``Settings`` from Airflow's connections and variables; a section is read when it is first used.

    A connection of type ``memory`` (``AIRFLOW_CONN_MONGO_DEFAULT=memory://dry-run``) selects the adapter in memory.
    """

    @cached_property
    def kafka(self) -> KafkaSettings:
        """All of ``extra``, as in Airflow's Kafka provider, and optionally topic and dead_letter_topic."""
        connection = Connection.get(KAFKA)
        if address := _memory_address(connection):
            return KafkaSettings(address)
        return KafkaSettings.from_properties(connection.extra_dejson)

    @cached_property
    def mongo(self) -> MongoSettings:
        """``schema`` is the database; every key of ``extra`` becomes an option of the URI (``srv`` its scheme)."""
        connection = Connection.get(MONGO)
        if address := _memory_address(connection):
            return MongoSettings(address)
        options = dict(connection.extra_dejson)
        srv = _parser(MONGO, {"srv": options.pop("srv", None)}).boolean("srv", False)
        scheme = "mongodb+srv" if srv else "mongodb"
        uri = f"{scheme}://{login_of(connection)}{host_of(connection)}/{build_query(options)}"
        return MongoSettings(uri=uri, database=connection.schema or MongoSettings.database)

    @cached_property
    def milvus(self) -> MilvusSettings:
        """``extra`` may set uri, token and message_index (IVF_FLAT, HNSW or FLAT)."""
        connection = Connection.get(MILVUS)
        if address := _memory_address(connection):
            return MilvusSettings(address)
        extra = _parser(MILVUS, connection.extra_dejson)
        login = f"{connection.login}:{connection.password or ''}" if connection.login else ""
        return MilvusSettings(
            uri=extra.text("uri", "") or f"http://{host_of(connection)}",
            token=extra.text("token", login),
            message_index=extra.choice("message_index", MilvusSettings.message_index, MESSAGE_INDEXES),
        )

    @cached_property
    def neo4j(self) -> Neo4jSettings:
        """``extra`` may set scheme (neo4j, neo4j+s, bolt ...); ``schema`` is the database."""
        connection = Connection.get(NEO4J)
        if address := _memory_address(connection):
            return Neo4jSettings(address)
        scheme = _parser(NEO4J, connection.extra_dejson).text("scheme", "neo4j")
        return Neo4jSettings(
            uri=f"{scheme}://{host_of(connection)}",
            user=connection.login or Neo4jSettings.user,
            password=connection.password or "",
            database=connection.schema or Neo4jSettings.database,
        )

    @cached_property
    def warehouse(self) -> WarehouseSettings:
        """A postgres connection; ``schema`` is the database, ``extra`` holds libpq options."""
        connection = Connection.get(WAREHOUSE)
        if address := _memory_address(connection):
            return WarehouseSettings(address)
        return warehouse_settings(connection)

    @cached_property
    def redis(self) -> RedisSettings:
        """``extra`` may set db (0) and ssl (false)."""
        connection = Connection.get(REDIS)
        if address := _memory_address(connection):
            return RedisSettings(address)
        extra = _parser(REDIS, connection.extra_dejson)
        scheme = "rediss" if extra.boolean("ssl", False) else "redis"
        password = quote(connection.password or "", safe="")
        login = f"{quote(connection.login or '', safe='')}:{password}@" if password else ""
        return RedisSettings(url=f"{scheme}://{login}{host_of(connection)}/{extra.integer('db', 0, 0, 65_535)}")

    @cached_property
    def embed(self) -> EmbedSettings:
        """An http connection; the password is the API key.

        ``extra`` may set url, model, revision, dimension and max_characters.
        """
        connection = Connection.get(EMBED)
        extra = _parser(EMBED, connection.extra_dejson)
        url = _memory_address(connection) or extra.text("url", "")
        return EmbedSettings(
            url=url or f"{connection.schema or 'http'}://{host_of(connection)}/v1",
            api_key=connection.password or "",
            model=extra.text("model", EmbedSettings.model),
            revision=extra.text("revision", EmbedSettings.revision),
            dimension=extra.integer("dimension", EmbedSettings.dimension, 1, 65_536),
            max_characters=extra.integer("max_characters", EmbedSettings.max_characters, 0, 1_000_000),
        )

    @cached_property
    def pipeline(self) -> PipelineSettings:
        """Airflow's variables override the environment, which overrides the defaults."""
        values: dict[str, object] = dict(static_values(os.environ))
        for name in _VARIABLES:
            value = Variable.get(f"millrace_{name}", default=None)
            if value is not None:
                values[name] = str(value).strip()  # a text pasted into Airflow's form may end in a newline
        return pipeline_settings(values)

    def store(self, name: str) -> StoreSettings:
        """From the connection ``<name>_default``: ``url`` in ``extra``, or its own fields; other keys are options."""
        conn_id = f"{name}_default"
        connection = Connection.get(conn_id)
        options = {option: option_text(value) for option, value in connection.extra_dejson.items()}
        url = _memory_address(connection) or options.pop("url", "")
        address = f"{connection.conn_type}://{login_of(connection)}"
        return StoreSettings(url or f"{address}{host_of(connection)}/{connection.schema or ''}", options)


def static_values(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that must be known while a DAG is parsed, from the environment."""
    values = {name: environment.get(f"MILLRACE_{name.upper()}", "") for name in _STATIC_VARIABLES}
    return {name: value for name, value in values.items() if value}


def _parser(conn_id: str, extra: Mapping[str, object]) -> SettingsParser:
    return SettingsParser(extra, lambda name: f"connection {conn_id}: {name}")


def _memory_address(connection: Connection) -> str:
    """``memory://<name>`` for a connection of type memory, empty for any other."""
    if connection.conn_type != MEMORY_SCHEME.removesuffix("://"):
        return ""
    _require_single_process(connection.conn_id)
    return f"{MEMORY_SCHEME}{connection.host or ''}"


def _require_single_process(conn_id: str) -> None:
    """Raise ``ConfigurationError`` in a scheduled run: there every task is a process of its own, and what one stores in
    memory would be lost before ``commit`` moves the offset.
    """
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms

    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if supervisor is not None and not isinstance(supervisor, InProcessSupervisorComms):
        raise ConfigurationError(
            f"connection {conn_id} is in memory, which works only with dag.test(): each task of a scheduled run is a "
            "separate process and would lose its data"
        )
