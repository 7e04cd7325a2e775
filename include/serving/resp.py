"""A connection to Redis that joins reads: what is asked in one turn of the event loop is sent in one write.

Replies come in the order of the commands, so a reply can only be lost together with the connection: one that is
late, that nobody asked for or that makes no sense ends it, and everything still waiting fails. A caller that is
cancelled leaves its place in the order behind, and its reply is thrown away there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from include.errors import TransientError
from include.serving.address import Address

#: The longest wait for the TCP connection, TLS included.
CONNECT_TIMEOUT_S = 0.5
#: When our own loop was late, the reply may lie unread in the socket: one more turn before it counts as missing.
_GRACE_S = 0.005
_NOTHING = object()


class StoreAwayError(TransientError):
    """Redis does not answer, or not in time, or not with an answer."""


class Connection(asyncio.Protocol):
    """One socket. Every call is answered within ``deadline_s``, or the connection is lost and ``on_lost`` hears why."""

    def __init__(self, deadline_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self.on_lost: Callable[[str], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._grace_began = 0.0
        self.lost = False

    def get(self, key: bytes) -> asyncio.Future[Any]:
        """``GET key``: bytes, None, or a ``hiredis.ReplyError`` as a value. Raises ``StoreAwayError`` if lost."""
        return self._send(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))

    def call(self, *words: bytes) -> asyncio.Future[Any]:
        """Any command with exactly one reply; as ``get``."""
        return self._send(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))

    def drop(self, reason: str) -> None:
        """End the connection at once; everything that waits fails with ``reason``."""
        if self.lost:
            return
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._unsent.clear()
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(StoreAwayError(reason))
        self._waiting.clear()
        if self.on_lost is not None:
            self.on_lost(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(f"the connection ended: {exc}" if exc else "the connection ended")

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as exc:
            self.drop(f"a reply out of order: {type(exc).__name__}")

    def _send(self, command: bytes) -> asyncio.Future[Any]:
        if self.lost:
            raise StoreAwayError("the connection is lost")
        future = self._loop.create_future()
        self._waiting.append((future, self._loop.time()))
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
        """One timer for all that wait: the first in the order is the oldest."""
        self._timer = None
        if not self._waiting:
            return
        now = self._loop.time()
        due = self._waiting[0][1] + self._deadline_s
        if due <= self._grace_began:
            # whatever else was read meanwhile: a server that is late with every reply is never silent
            self.drop(f"no reply within {self._deadline_s * 1000:.0f} ms")
            return
        if due <= now:
            self._grace_began = now
            due = now + _GRACE_S
        self._timer = self._loop.call_later(due - now, self._check_deadline)


async def connect(address: Address, deadline_s: float) -> Connection:
    """A connection that is logged in. Raises ``StoreAwayError`` when there is none to be had."""

    def protocol() -> Connection:
        return Connection(deadline_s)

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if address.path:
                _, connection = await loop.create_unix_connection(protocol, address.path)
            else:
                _, connection = await loop.create_connection(protocol, address.host, address.port, ssl=address.tls)
    except (OSError, UnicodeError) as exc:  # a timeout, every error of TLS; a name that no host can have
        raise StoreAwayError(f"no connection to {address}: {exc or 'no answer in time'}") from exc
    try:
        if address.password:
            user = (address.username.encode(),) if address.username else ()
            await answer(connection.call(b"AUTH", *user, address.password.encode()))
        if address.db:
            await answer(connection.call(b"SELECT", b"%d" % address.db))
    except BaseException:
        connection.drop("the login failed")
        raise
    return connection


async def answer(reply: asyncio.Future[Any]) -> Any:
    """The reply; an error reply is raised as ``StoreAwayError``."""
    value = await reply
    if isinstance(value, hiredis.ReplyError):
        raise StoreAwayError(f"Redis refuses: {value}")
    return value
