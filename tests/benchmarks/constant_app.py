"""The baseline for the reader: the same server, sending a constant body."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
_BODY = {"type": "http.response.body", "body": b"x" * int(os.environ.get("CONSTANT_BYTES", "2048"))}


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Send the constant body for every request."""
    await send(_START)
    await send(_BODY)
