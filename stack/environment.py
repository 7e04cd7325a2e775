"""What a client of the local stack needs to know, as environment variables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from stack.config import LocalConfig
from stack.credentials import Secrets, load_or_create

AIRFLOW_USER = "admin"


def client_environment(config: LocalConfig) -> dict[str, str]:
    """Every ``MILLRACE_`` variable that ``include.settings`` and the demo read. Makes the secrets if there are none."""
    secrets = load_or_create(config.home)
    return {
        "MILLRACE_HOME": str(config.home),
        "MILLRACE_KAFKA_BOOTSTRAP": config.address("kafka"),
        "MILLRACE_MONGO_URI": f"mongodb://{config.address('mongo')}/?retryWrites=false",
        "MILLRACE_MILVUS_URI": f"http://{config.address('milvus')}",
        "MILLRACE_NEO4J_URI": f"neo4j://{config.address('neo4j')}",
        "MILLRACE_NEO4J_USER": "neo4j",
        "MILLRACE_NEO4J_PASSWORD": secrets.neo4j,
        "MILLRACE_WAREHOUSE_DSN": warehouse_dsn(config, secrets),
        "MILLRACE_REDIS_URL": redis_url(config, secrets),
        "MILLRACE_EMBED_URL": f"http://{config.address('embed')}/v1",
        "MILLRACE_EMBED_API_KEY": secrets.embed_api_key,
        "MILLRACE_BATCH_PATH": config.batches.as_uri(),
        "MILLRACE_SHARDS": str(config.shards),
        "MILLRACE_READER_URL": f"http://{config.address('reader')}",
        "MILLRACE_AIRFLOW_URL": airflow_url(config),
        "MILLRACE_AIRFLOW_USER": AIRFLOW_USER,
        "MILLRACE_AIRFLOW_PASSWORD": secrets.airflow_admin,
    }


def warehouse_dsn(config: LocalConfig, secrets: Secrets) -> str:
    return f"postgresql://warehouse:{secrets.postgres_warehouse}@{config.address('postgres')}/warehouse"


def redis_url(config: LocalConfig, secrets: Secrets) -> str:
    return f"redis://:{secrets.redis}@{config.address('redis')}/0"


def airflow_url(config: LocalConfig) -> str:
    return f"http://{config.address('airflow')}"


def shell_lines(environment: Mapping[str, str]) -> str:
    """Lines for ``eval "$(python -m stack env)"``."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
