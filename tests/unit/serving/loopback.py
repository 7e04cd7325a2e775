"""A scripted server on loopback, for behaviour that a real Redis would never show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import hiredis

from include.serving.address import RedisAddress
from include.serving.resp import Connection, connect

type Command = list[bytes]
type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: The deadline where a test is not about deadlines: long enough never to expire.
GENEROUS_S = 20.0


@asynccontextmanager
async def serve(handler: Handler, socket_path: str = "") -> AsyncIterator[RedisAddress]:
    """Run a server on a free port or on a Unix socket; its connections are aborted on exit."""
    writers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers[task] = writer
        with suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()

    if socket_path:
        server = await asyncio.start_unix_server(handle, socket_path)
        address = RedisAddress(path=socket_path)
    else:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        address = RedisAddress(port=server.sockets[0].getsockname()[1])
    try:
        yield address
    finally:
        server.close()
        for writer in writers.values():
            writer.transport.abort()
        await asyncio.gather(*writers)


@asynccontextmanager
async def connect_to(handler: Handler, deadline_s: float = GENEROUS_S) -> AsyncIterator[Connection]:
    """Open a connection to such a server."""
    async with serve(handler) as address:
        connection = await connect(address, deadline_s)
        try:
            yield connection
        finally:
            connection.drop("the test is over")


async def read_commands(reader: asyncio.StreamReader) -> AsyncIterator[Command]:
    """Yield the client's commands until it disconnects."""
    parser = hiredis.Reader()
    while data := await reader.read(65_536):
        parser.feed(data)
        while (command := parser.gets()) is not False:
            yield command


def send(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """Send a reply, unless the client has disconnected."""
    if not writer.is_closing():
        writer.write(reply)


def stay_silent() -> Handler:
    """Make a handler that accepts connections and never replies."""

    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    return handle


def reply_with(get_reply: Callable[[Command], bytes], received: list[Command] | None = None) -> Handler:
    """Make a handler that answers each command immediately and appends it to ``received``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in read_commands(reader):
            if received is not None:
                received.append(command)
            send(writer, get_reply(command))

    return handle


def look_up(values: Mapping[bytes, bytes]) -> Callable[[Command], bytes]:
    """Answer like a Redis that stores these values; any command other than GET succeeds."""
    return lambda command: encode_bulk(values.get(command[1])) if command[0] == b"GET" else b":1\r\n"


def encode_bulk(value: bytes | None) -> bytes:
    """Encode a value as a RESP bulk string."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(GENEROUS_S):
        while not condition():
            await asyncio.sleep(0.005)
