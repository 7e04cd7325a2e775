"""A server on loopback that talks as a test tells it to, where a real Redis would never do so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import hiredis

from include.serving.address import Address
from include.serving.resp import Connection, connect

type Command = list[bytes]
type Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: For what is not about deadlines: no test waits that long.
PATIENT_S = 20.0


@asynccontextmanager
async def listening(talk: Talk, path: str = "") -> AsyncIterator[Address]:
    """A server that talks so to everybody, at a port or at this socket; at the end its connections are ended."""
    talks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks[task] = writer
        with suppress(ConnectionError):
            await talk(reader, writer)
        writer.close()

    if path:
        server = await asyncio.start_unix_server(served, path)
        address = Address(path=path)
    else:
        server = await asyncio.start_server(served, "127.0.0.1", 0)
        address = Address(port=server.sockets[0].getsockname()[1])
    try:
        yield address
    finally:
        server.close()
        for writer in talks.values():
            writer.transport.abort()
        await asyncio.gather(*talks)


@asynccontextmanager
async def connected(talk: Talk, deadline_s: float = PATIENT_S) -> AsyncIterator[Connection]:
    """A connection to such a server."""
    async with listening(talk) as address:
        connection = await connect(address, deadline_s)
        try:
            yield connection
        finally:
            connection.drop("the test ends")


async def commands(reader: asyncio.StreamReader) -> AsyncIterator[Command]:
    """What the client asks, until it goes."""
    parser = hiredis.Reader()
    while data := await reader.read(65_536):
        parser.feed(data)
        while (command := parser.gets()) is not False:
            yield command


def say(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """Send it, if the client is still there to hear it."""
    if not writer.is_closing():
        writer.write(reply)


def silent() -> Talk:
    """Listens, and never says a word."""

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    return talk


def replying(reply: Callable[[Command], bytes], heard: list[Command] | None = None) -> Talk:
    """Answers each command at once; what it was asked stands in ``heard``."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in commands(reader):
            if heard is not None:
                heard.append(command)
            say(writer, reply(command))

    return talk


def keeping(values: Mapping[bytes, bytes]) -> Callable[[Command], bytes]:
    """Replies of a Redis with these values, which takes any other command for done."""
    return lambda command: bulk(values.get(command[1])) if command[0] == b"GET" else b":1\r\n"


def bulk(value: bytes | None) -> bytes:
    """A reply that is this value."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


async def holds(condition: Callable[[], object]) -> None:
    """Wait until it does."""
    async with asyncio.timeout(PATIENT_S):
        while not condition():
            await asyncio.sleep(0.005)
