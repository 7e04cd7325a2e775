"""A proxy that cuts a connection in the middle of a call: as soon as the client has sent a marked value."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BLOCK = 1 << 16
_TIMEOUT_S = 30


class CuttingProxy:
    """Passes everything on to the server at ``target``, ``host:port``, until a client sends ``marker``."""

    def __init__(self, target: str, marker: bytes) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._marker = marker
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        #: How many connections were cut.
        self.cut = 0

    def serve(self) -> None:
        """Accept clients until ``close``."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target, timeout=_TIMEOUT_S)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink, source is client), daemon=True).start()

    def close(self) -> None:
        """Stop accepting."""
        # Closing the socket alone does not wake up ``accept``.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_client: bool) -> None:
        sent = b""
        with suppress(OSError):
            while block := source.recv(_BLOCK):
                # The marker may lie across two blocks.
                sent = sent[-len(self._marker) :] + block
                if is_client and self._marker in sent:
                    self.cut += 1
                    break
                sink.sendall(block)
        for connection in (source, sink):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextmanager
def cutting_proxy(target: str, marker: bytes) -> Iterator[CuttingProxy]:
    """A proxy in threads of its own."""
    proxy = CuttingProxy(target, marker)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
