"""HTTP requests to servers on this machine, bypassing any proxy."""

from __future__ import annotations

import json
import urllib.request

from include.errors import TransientError

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http_get(url: str, seconds: float = 3.0) -> bytes:
    """The body of a 2xx response. Raises ``OSError`` for any other response, and for none."""
    with _OPENER.open(url, timeout=seconds) as response:
        body: bytes = response.read()
    return body


def http_get_json(url: str, seconds: float = 3.0) -> dict[str, object]:
    """The JSON object of a 2xx response. Raises as ``http_get`` does, and for any other content."""
    content = json.loads(http_get(url, seconds))
    if not isinstance(content, dict):
        raise TransientError(f"{url} did not return a JSON object")
    return content
