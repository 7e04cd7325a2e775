"""The secrets of one installation: generated once per home and stored in a file that only its owner can read."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from include.errors import ConfigurationError
from stack.private import create_folder

FILE = "secrets.json"

#: Generates a new secret.
type SecretFactory = Callable[[], str]


@dataclass(frozen=True)
class Secrets:
    """Random secrets by name. None of them appears in a log or in the arguments of a process."""

    values: Mapping[str, str] = field(repr=False)

    def __getitem__(self, name: str) -> str:
        return self.values[name]


def load_or_create(home: Path, factories: Mapping[str, SecretFactory]) -> Secrets:
    """The stored secrets of a home; any that are missing are generated and stored first."""
    path = home / FILE
    stored = _read(path) if path.exists() else {}
    missing = {name: factory() for name, factory in factories.items() if not stored.get(name)}
    if missing:
        write_private(path, json.dumps({**stored, **missing}, indent=1) + "\n")
    return Secrets({**stored, **missing})


def random_token() -> str:
    """A secret that needs no quoting in a URL, a shell line or a configuration file."""
    return secrets.token_hex(16)


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically. Only its owner can read it, at any moment."""
    create_folder(path.parent)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"{path} cannot be read ({exc}). Restore it, or start over: python -m stack reset"
        ) from exc
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} is not a JSON object. Restore it, or start over: python -m stack reset")
    return {str(name): str(value) for name, value in content.items()}
