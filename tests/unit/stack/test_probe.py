"""HTTP requests to servers on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from include.errors import TransientError
from stack.config import LOOPBACK, find_free_ports
from stack.probe import http_get, http_get_json

RESPONSES = {"/well": (200, b'{"status": "ok"}'), "/ill": (503, b"{}"), "/list": (200, b"[1]"), "/text": (200, b"up")}


class Handler(BaseHTTPRequestHandler):
    """Each path has one response."""

    def do_GET(self) -> None:
        status, body = RESPONSES[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()


def test_proxies_are_bypassed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy settings do not affect requests to servers on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{LOOPBACK}:{find_free_ports(1)[0]}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert http_get(f"{url}/text") == b"up"
    assert http_get_json(f"{url}/well") == {"status": "ok"}


def test_an_error_status_is_an_error(url: str) -> None:
    """A server that reports a failure does not count as healthy."""
    with pytest.raises(OSError, match="503"):
        http_get(f"{url}/ill")


def test_a_closed_port_is_an_error() -> None:
    """While a server starts, nothing listens on its port."""
    with pytest.raises(OSError, match="refused"):
        http_get(f"http://{LOOPBACK}:{find_free_ports(1)[0]}/")


def test_other_content_is_an_error(url: str) -> None:
    """Only a JSON object can have the requested fields."""
    with pytest.raises(TransientError, match="/list did not return a JSON object"):
        http_get_json(f"{url}/list")
    with pytest.raises(ValueError, match="Expecting value"):
        http_get_json(f"{url}/text")
