"""docker-compose.airflow.yml as Compose would read it, with secrets generated for the test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.compose_env import fill_secrets

PROJECT = Path(__file__).resolve().parents[1]
FILE = PROJECT / "docker-compose.airflow.yml"
EXAMPLE = PROJECT / "docker" / "env.example"

#: ``$$``, ``${NAME}``, ``${NAME:?message}`` and ``${NAME:-default}``: the only forms that the file uses.
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z0-9_]+)(?P<rest>:[?-][^}]*)?\})")


class MissingVariableError(Exception):
    """A variable that the file requires has no value."""


def generate_environment() -> dict[str, str]:
    """The variables in docker/.env after ``scripts/compose_env.py``."""
    lines = [line for line in fill_secrets(EXAMPLE.read_text(encoding="utf-8")).splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def read_raw() -> dict[str, Any]:
    """The file with its variables unexpanded."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def expand(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables expanded. Raises ``MissingVariableError``."""
    expanded: dict[str, Any] = _expand(read_raw(), variables)
    return expanded


def _expand(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _expand(member, variables) for name, member in value.items()}
    if isinstance(value, list):
        return [_expand(member, variables) for member in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _value(match, variables), value)
    return value


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, rest = match["name"], match["rest"] or ""
    if name is None:
        return "$"
    value = variables.get(name, "")
    if not value and rest.startswith(":?"):
        raise MissingVariableError(f"{name}: {rest[2:]}")
    return value or rest.removeprefix(":-")
