"""Asking a server on this machine over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from include.errors import TransientError
from stack.config import LOOPBACK, free_ports
from stack.probe import http_get, http_get_json

ANSWERS = {"/well": (200, b'{"status": "ok"}'), "/ill": (503, b"{}"), "/list": (200, b"[1]"), "/text": (200, b"up")}


class Handler(BaseHTTPRequestHandler):
    """Each path has one answer."""

    def do_GET(self) -> None:
        status, body = ANSWERS[self.path]
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


def test_a_proxy_is_passed_by(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings for the network outside do not stand between us and a server of this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{LOOPBACK}:{free_ports(1)[0]}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert http_get(f"{url}/text") == b"up"
    assert http_get_json(f"{url}/well") == {"status": "ok"}


def test_a_refusal_is_an_error(url: str) -> None:
    """A server that answers that it is not well has not answered."""
    with pytest.raises(OSError, match="503"):
        http_get(f"{url}/ill")


def test_nobody_there_is_an_error() -> None:
    """As while a server is being started."""
    with pytest.raises(OSError, match="refused"):
        http_get(f"http://{LOOPBACK}:{free_ports(1)[0]}/")


def test_another_shape_is_an_error(url: str) -> None:
    """What is no object has none of the fields that are asked for."""
    with pytest.raises(TransientError, match="/list did not answer with a JSON object"):
        http_get_json(f"{url}/list")
    with pytest.raises(ValueError, match="Expecting value"):
        http_get_json(f"{url}/text")
