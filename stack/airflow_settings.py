"""``airflow_settings.yaml`` (the Astro CLI's format) merged with the ports and secrets of this installation.

The file lists connections without passwords, pools and variables. The Astro CLI reads it too; its users set
``AIRFLOW_CONN_*`` for the secrets, which ``build_seeds`` fills in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.errors import ConfigurationError
from stack.config import PROJECT
from stack.server import Connections

FILE = PROJECT / "airflow_settings.yaml"


def build_seeds(overrides: Connections, file: Path = FILE) -> dict[str, Any]:
    """The content that ``scripts/seed_airflow.py`` writes into Airflow's database.

    ``overrides`` are connection fields that replace those of the file. Raises ``ConfigurationError``.
    """
    content = _read(file)
    connections = _read_entries(content, "connections", "conn_id", "conn_type")
    return {
        "connections": [_build_connection(entry, overrides.get(entry["conn_id"], {})) for entry in connections],
        "pools": [
            {"name": entry["pool_name"], "slots": entry["pool_slot"], "description": entry.get("pool_description", "")}
            for entry in _read_entries(content, "pools", "pool_name")
            # The Astro CLI skips a pool without slots too.
            if entry.get("pool_slot")
        ],
        "variables": {
            entry["variable_name"]: str(entry["variable_value"])
            for entry in _read_entries(content, "variables", "variable_name", "variable_value")
        },
    }


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc}") from exc
    root = content.get("airflow") if isinstance(content, dict) else None
    if not isinstance(root, dict):
        raise ConfigurationError(f"{file} must begin with 'airflow:' and list connections, pools and variables below")
    return root


def _read_entries(content: Mapping[str, Any], section: str, *required: str) -> list[dict[str, Any]]:
    """The entries of a section. Raises ``ConfigurationError`` for one that lacks a required field."""
    entries = content.get(section) or []
    if not isinstance(entries, list):
        raise ConfigurationError(f"{FILE.name}: {section} must be a list, not {entries!r}")
    for entry in entries:
        if not isinstance(entry, dict) or any(entry.get(name) in (None, "") for name in required):
            raise ConfigurationError(f"{FILE.name}: every entry of {section} needs {' and '.join(required)}: {entry}")
    return entries


def _build_connection(entry: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """One connection as Airflow's model takes it, without unset fields."""
    name = entry["conn_id"]
    extra = entry.get("conn_extra") or {}
    if not isinstance(extra, dict):
        raise ConfigurationError(f"{FILE.name}: conn_extra of {name} must be a mapping, not {extra!r}")
    values = {field: entry.get(f"conn_{field}") for field in ("host", "schema", "login", "port")}
    fields = {field: value for field, value in values.items() if value}
    return {
        "conn_id": name,
        "conn_type": entry["conn_type"],
        **fields,
        **overrides,
        "extra": {**extra, **overrides.get("extra", {})},
    }
