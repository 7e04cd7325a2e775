"""``airflow_settings.yaml`` (the Astro CLI's format) with this installation's ports and secrets over it.

The file lists connections without passwords, pools and variables. Astro users have it read by their CLI and set
``AIRFLOW_CONN_*`` for what is secret; here ``seeds`` fills that in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.errors import ConfigurationError
from stack.config import LOOPBACK, PROJECT, LocalConfig
from stack.credentials import Secrets

FILE = PROJECT / "airflow_settings.yaml"


def seeds(config: LocalConfig, secrets: Secrets, file: Path = FILE) -> dict[str, Any]:
    """What ``scripts/seed_airflow.py`` writes into Airflow's database. Raises ``ConfigurationError``."""
    content = _read(file)
    here = _of_this_installation(config, secrets)
    return {
        "connections": [_connection(entry, here) for entry in _entries(content, "connections", "conn_id", "conn_type")],
        "pools": [
            {"name": entry["pool_name"], "slots": entry["pool_slot"], "description": entry.get("pool_description", "")}
            for entry in _entries(content, "pools", "pool_name")
            # The Astro CLI skips a pool without slots too.
            if entry.get("pool_slot")
        ],
        "variables": {
            entry["variable_name"]: str(entry["variable_value"])
            for entry in _entries(content, "variables", "variable_name", "variable_value")
        },
    }


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc}") from exc
    found = content.get("airflow") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{file} must begin with 'airflow:' and list connections, pools and variables below")
    return found


def _entries(content: Mapping[str, Any], section: str, *needed: str) -> list[dict[str, Any]]:
    """The entries of a section. Raises ``ConfigurationError`` for one without a field that it needs."""
    entries = content.get(section) or []
    if not isinstance(entries, list):
        raise ConfigurationError(f"{FILE.name}: {section} must be a list, and is {entries!r}")
    for entry in entries:
        if not isinstance(entry, dict) or any(entry.get(name) in (None, "") for name in needed):
            raise ConfigurationError(f"{FILE.name}: each of {section} needs {' and '.join(needed)}, and one is {entry}")
    return entries


def _connection(entry: Mapping[str, Any], here: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One connection as Airflow's model takes it; an unset field is absent."""
    name = entry["conn_id"]
    given = entry.get("conn_extra") or {}
    if not isinstance(given, dict):
        raise ConfigurationError(f"{FILE.name}: conn_extra of {name} must be keys and values, and is {given!r}")
    fields = ("conn_type", "host", "schema", "login", "port")
    found = {key: entry.get(key if key == "conn_type" else f"conn_{key}") for key in fields}
    over = dict(here.get(name, {}))
    extra = {**given, **over.pop("extra", {})}
    return {"conn_id": name, **{key: value for key, value in found.items() if value}, **over, "extra": extra}


def _of_this_installation(config: LocalConfig, secrets: Secrets) -> dict[str, dict[str, Any]]:
    def at(port: str, **more: Any) -> dict[str, Any]:
        return {"host": LOOPBACK, "port": config.ports[port], **more}

    return {
        "kafka_default": {"extra": {"bootstrap.servers": config.address("kafka")}},
        "mongo_default": at("mongo"),
        "milvus_default": at("milvus"),
        "neo4j_default": at("neo4j", password=secrets.neo4j),
        "warehouse_default": at("postgres", password=secrets.postgres_warehouse),
        "redis_default": at("redis", password=secrets.redis),
        "embed_default": at("embed", password=secrets.embed_api_key),
    }
