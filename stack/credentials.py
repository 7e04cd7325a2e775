"""The secrets of one installation: made once a home, kept in a file that only its owner can read."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from include.errors import ConfigurationError

FILE = "secrets.json"


@dataclass(frozen=True)
class Secrets:
    """Each is made at random; none appears in a log or in the arguments of a process."""

    postgres_admin: str = field(repr=False)
    postgres_airflow: str = field(repr=False)
    postgres_warehouse: str = field(repr=False)
    redis: str = field(repr=False)
    neo4j: str = field(repr=False)
    embed_api_key: str = field(repr=False)
    airflow_admin: str = field(repr=False)
    airflow_fernet_key: str = field(repr=False)
    airflow_jwt_secret: str = field(repr=False)
    airflow_api_secret: str = field(repr=False)


def load_or_create(home: Path) -> Secrets:
    """The same secrets for one home every time. A file from an older version gets what it lacks."""
    path = home / FILE
    known = _read(path) if path.exists() else {}
    made = {f.name: known.get(f.name) or _MAKERS.get(f.name, _token)() for f in fields(Secrets)}
    found = Secrets(**made)
    if made != known:
        _write(path, asdict(found))
    return found


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner alone from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
            f"{path} cannot be read ({exc}). Put it back, or begin anew: python -m stack reset"
        ) from exc
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} is not a JSON object. Begin anew: python -m stack reset")
    return {str(name): str(value) for name, value in content.items()}


def _write(path: Path, content: Mapping[str, str]) -> None:
    write_private(path, json.dumps(content, indent=1) + "\n")


def _token() -> str:
    # Hexadecimal: it needs no quoting in an address, a shell line or a configuration file.
    return secrets.token_hex(16)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


_MAKERS: Mapping[str, Callable[[], str]] = {
    "airflow_fernet_key": _fernet_key,
    "airflow_jwt_secret": lambda: secrets.token_hex(64),
}
