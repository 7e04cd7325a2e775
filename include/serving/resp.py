"""A Redis connection that batches commands: those issued in one iteration of the event loop share one write.

Replies arrive in the order of the commands, so a single reply can never go missing: if one is late, unexpected or
malformed, the connection is closed and every pending call fails. A cancelled call keeps its place in the queue, and
its reply is discarded.

docs/adr/0012-resp-client.md explains why the reader does not use redis-py here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from include.errors import TransientError
from include.serving.address import RedisAddress

#: The longest to wait for the connection, including the TLS handshake.
CONNECT_TIMEOUT_S = 0.5
#: If our own event loop was late, a reply may be waiting unread in the socket: read once more before giving up on it.
_GRACE_S = 0.005
_INCOMPLETE = object()


class StoreUnavailableError(TransientError):
    """Redis is unreachable, did not answer in time, or returned an error."""


class Connection(asyncio.Protocol):
    """One socket. Every call is answered within ``deadline_s``, or the connection is closed.

    ``on_lost`` is then called with the reason.
    """

    def __init__(self, deadline_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self.on_lost: Callable[[str], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._grace_began = 0.0
        self.lost = False

    def get(self, key: bytes) -> asyncio.Future[Any]:
        """``GET key``; the result is bytes, None or a ``hiredis.ReplyError``, which is returned, not raised.

        Raises ``StoreUnavailableError`` if the connection is closed.
        """
        return self._send(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))

    def execute(self, *arguments: bytes) -> asyncio.Future[Any]:
        """Send any command that has exactly one reply; otherwise like ``get``."""
        encoded = b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments)
        return self._send(b"*%d\r\n" % len(arguments) + encoded)

    def drop(self, reason: str) -> None:
        """Close the connection immediately; every pending call fails with ``reason``."""
        if self.lost:
            return
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._unsent.clear()
        for future, _ in self._pending:
            if not future.done():
                future.set_exception(StoreUnavailableError(reason))
        self._pending.clear()
        if self.on_lost is not None:
            self.on_lost(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(f"the connection was closed: {exc}" if exc else "the connection was closed")

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _INCOMPLETE:
                future, _ = self._pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as exc:
            self.drop(f"unexpected reply: {type(exc).__name__}")

    def _send(self, command: bytes) -> asyncio.Future[Any]:
        if self.lost:
            raise StoreUnavailableError("the connection is closed")
        future = self._loop.create_future()
        self._pending.append((future, self._loop.time()))
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(command)
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline_s, self._check_deadline)
        return future

    def _flush(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _check_deadline(self) -> None:
        """Check the oldest pending call, which is the first in the queue: one timer covers all of them."""
        self._timer = None
        if not self._pending:
            return
        now = self._loop.time()
        due = self._pending[0][1] + self._deadline_s
        if due <= self._grace_began:
            # Even if other replies arrived meanwhile: a server that delays every reply is never silent.
            self.drop(f"no reply within {self._deadline_s * 1000:.0f} ms")
            return
        if due <= now:
            self._grace_began = now
            due = now + _GRACE_S
        self._timer = self._loop.call_later(due - now, self._check_deadline)


async def connect(address: RedisAddress, deadline_s: float) -> Connection:
    """Open a connection and log in. Raises ``StoreUnavailableError`` if either fails."""
    connection = await _open_socket(address, deadline_s)
    try:
        if address.password:
            username = (address.username.encode(),) if address.username else ()
            await await_reply(connection.execute(b"AUTH", *username, address.password.encode()))
        if address.db:
            await await_reply(connection.execute(b"SELECT", b"%d" % address.db))
    except BaseException:
        connection.drop("the login failed")
        raise
    return connection


async def _open_socket(address: RedisAddress, deadline_s: float) -> Connection:
    def protocol() -> Connection:
        return Connection(deadline_s)

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if address.path:
                _, connection = await loop.create_unix_connection(protocol, address.path)
            else:
                _, connection = await loop.create_connection(protocol, address.host, address.port, ssl=address.tls)
    except (OSError, UnicodeError) as exc:  # includes timeouts, TLS errors and impossible host names
        raise StoreUnavailableError(f"cannot connect to {address}: {exc or 'no answer in time'}") from exc
    return connection


async def await_reply(reply: asyncio.Future[Any]) -> Any:
    """Await the reply and raise an error reply as ``StoreUnavailableError``."""
    value = await reply
    if isinstance(value, hiredis.ReplyError):
        raise StoreUnavailableError(f"Redis returned an error: {value}")
    return value
