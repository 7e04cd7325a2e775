"""docker-compose.airflow.yml as Compose would read it, with secrets made for the test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.compose_env import filled

PROJECT = Path(__file__).resolve().parents[1]
FILE = PROJECT / "docker-compose.airflow.yml"
EXAMPLE = PROJECT / "docker" / "env.example"

#: ``$$``, ``${NAME}``, ``${NAME:?message}`` and ``${NAME:-default}``: all that the file uses.
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z0-9_]+)(?P<rest>:[?-][^}]*)?\})")


class MissingVariableError(Exception):
    """A variable that the file requires has no value."""


def environment() -> dict[str, str]:
    """What docker/.env holds after ``scripts/compose_env.py``."""
    lines = [line for line in filled(EXAMPLE.read_text(encoding="utf-8")).splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def raw() -> dict[str, Any]:
    """The file as it stands, variables and all."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def composed(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with ``variables`` in their places. Raises ``MissingVariableError``."""
    filled_in: dict[str, Any] = _walk(raw(), variables)
    return filled_in


def _walk(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _walk(member, variables) for name, member in value.items()}
    if isinstance(value, list):
        return [_walk(member, variables) for member in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: _value(found, variables), value)
    return value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, rest = found["name"], found["rest"] or ""
    if name is None:
        return "$"
    value = variables.get(name, "")
    if not value and rest.startswith(":?"):
        raise MissingVariableError(f"{name}: {rest[2:]}")
    return value or rest.removeprefix(":-")
