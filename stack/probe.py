"""Asking a server over HTTP, past any proxy: it is on this machine."""

from __future__ import annotations

import json
import urllib.request

from include.errors import TransientError

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http_get(url: str, seconds: float = 3.0) -> bytes:
    """The body of a 2xx answer. Raises ``OSError`` for every other answer, and for none."""
    with _OPENER.open(url, timeout=seconds) as answer:
        body: bytes = answer.read()
    return body


def http_get_json(url: str, seconds: float = 3.0) -> dict[str, object]:
    content = json.loads(http_get(url, seconds))
    if not isinstance(content, dict):
        raise TransientError(f"{url} did not answer with a JSON object")
    return content
