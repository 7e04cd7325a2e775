"""A TCP proxy in front of each server that can reset connections, swallow bytes and delay them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

_BLOCK = 1 << 16
#: Closing a socket with this option sends a reset.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes everything on to ``target`` (a port of this machine), unless a fault is set. Runs in one event loop."""

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resets = False
        self._latency = 0.0
        self._flows = asyncio.Event()
        self._flows.set()
        self._moved_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether any connection is open."""
        return bool(self._writers)

    @property
    def busy(self) -> bool:
        """Whether bytes passed within the last second."""
        return bool(self._writers) and asyncio.get_running_loop().time() - self._moved_at < 1

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Reset every connection, and each new one until ``clear``."""
        self._resets = True
        self._cut()

    def black_hole(self) -> None:
        """Accept connections and read nothing from them until ``clear``."""
        self._flows.clear()

    def delay(self, seconds: float) -> None:
        """Hold each block for so long, in each direction, until ``clear``."""
        self._latency = seconds

    def clear(self) -> None:
        """End the fault."""
        self._resets, self._latency = False, 0.0
        self._flows.set()

    def _cut(self) -> None:
        for writer in list(self._writers):
            _abort(writer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: asyncio would log the cancellation of its task as an error.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._resets:
            _abort(writer)
            return
        self._writers.add(writer)
        try:
            await self._flows.wait()
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._writers.discard(writer)
            _abort(writer)
            return
        self._writers.add(server_writer)
        directions = [
            asyncio.ensure_future(self._pass_on(reader, server_writer)),
            asyncio.ensure_future(self._pass_on(server_reader, writer)),
        ]
        try:
            # Whichever side ends first ends both: no protocol here uses half-open connections.
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            for end in (writer, server_writer):
                self._writers.discard(end)
                end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(_BLOCK):
                if self._latency:
                    await asyncio.sleep(self._latency)
                await self._flows.wait()
                self._moved_at = asyncio.get_running_loop().time()
                writer.write(block)
                await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Proxies:
    """The proxies of all servers, in a thread of their own; ``ports``: by server, the port to listen on and the target.

    Faults may be set from any thread.
    """

    def __init__(self, ports: Mapping[str, tuple[int, int]]) -> None:
        self._ports = ports
        self._proxies: dict[str, Proxy] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def reset(self, server: str) -> None:
        """Reset its connections, old and new."""
        self._loop.call_soon_threadsafe(self._proxies[server].reset)

    def black_hole(self, server: str) -> None:
        """Let nothing through."""
        self._loop.call_soon_threadsafe(self._proxies[server].black_hole)

    def delay(self, server: str, seconds: float) -> None:
        """Hold each block for so long."""
        self._loop.call_soon_threadsafe(self._proxies[server].delay, seconds)

    def clear(self, server: str) -> None:
        """End its fault."""
        self._loop.call_soon_threadsafe(self._proxies[server].clear)

    def busy(self, server: str) -> bool:
        """Whether a client is at work with the server: they exchanged bytes within the last second."""
        return asyncio.run_coroutine_threadsafe(self._is_busy(server), self._loop).result(5)

    async def _is_busy(self, server: str) -> bool:
        proxy = self._proxies[server]
        # A request to the embedding server may take longer than a second; only a task at work is connected to it.
        return proxy.connected if server == "embed" else proxy.busy

    async def _open(self) -> None:
        for server, (port, target) in self._ports.items():
            self._proxies[server] = Proxy(port, target)
            await self._proxies[server].open()

    async def _close(self) -> None:
        for proxy in self._proxies.values():
            await proxy.close()
