"""The proxy of a chaos run, between a client and a server of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from stack.config import find_free_ports
from tests.chaos.proxy import Proxies

_PATIENCE_S = 20
#: Long enough to see that nothing comes through, as far as a test can see that.
_SILENCE_S = 0.3


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, suppress(OSError):
        while block := client.recv(1024):
            client.sendall(block)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)


def _exchange(client: socket.socket) -> bytes:
    client.sendall(b"hello")
    return client.recv(5)


def test_faults_begin_and_end(port: int) -> None:
    """Resets end connections, a black hole only silences them, and after each fault the proxy passes bytes again."""
    (own,) = find_free_ports(1)
    with Proxies({"echo": (own, port)}) as proxies:
        with _connect(own) as client:
            assert _exchange(client) == b"hello"
            assert proxies.busy("echo")
            proxies.black_hole("echo")
            client.sendall(b"later")
            client.settimeout(_SILENCE_S)
            with pytest.raises(TimeoutError):
                client.recv(5)
            proxies.clear("echo")
            client.settimeout(_PATIENCE_S)
            assert client.recv(5) == b"later"
            proxies.reset("echo")
            with pytest.raises(ConnectionResetError):
                client.recv(5)
        # A new connection is reset too: during the connect, or at the first exchange.
        with pytest.raises(ConnectionError), _connect(own) as client:
            _exchange(client)
        proxies.clear("echo")
        proxies.delay("echo", 0.01)
        with _connect(own) as client:
            assert _exchange(client) == b"hello"
