"""Values between tasks: small structs as JSON. Rows and vectors travel in files."""

from __future__ import annotations

from typing import Any

import msgspec


def to_xcom(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as the plain dict that XCom stores."""
    return dict(msgspec.to_builtins(value))


def from_xcom[T: msgspec.Struct](value: dict[str, Any], kind: type[T]) -> T:
    """The struct that ``to_xcom`` wrote."""
    return msgspec.convert(value, kind)
