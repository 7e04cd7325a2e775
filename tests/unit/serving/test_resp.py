"""The Redis connection, against a scripted server that also misbehaves in ways a real Redis would not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hiredis
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from include.serving.address import RedisAddress
from include.serving.resp import StoreUnavailableError, await_reply, connect
from tests.unit.serving.loopback import (
    GENEROUS_S,
    Command,
    Handler,
    connect_to,
    encode_bulk,
    look_up,
    read_commands,
    reply_with,
    send,
    serve,
    stay_silent,
    wait_until,
)

DEADLINE_S = 0.05


def echo(command: Command) -> bytes:
    """Reply with the key as the value."""
    return encode_bulk(command[1])


async def assert_fails(reply: asyncio.Future[Any], reason: str) -> None:
    """Assert that the call fails with this reason, rather than timing out in the test."""
    with pytest.raises(StoreUnavailableError, match=reason):
        await asyncio.wait_for(reply, GENEROUS_S)


@given(st.lists(st.binary(), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_each_caller_gets_the_reply_to_its_key(keys: list[bytes]) -> None:
    """Replies match their keys for any keys and values, however many calls are in flight."""
    received: list[Command] = []

    async def scenario() -> list[bytes]:
        async with connect_to(reply_with(echo, received)) as connection:
            return list(await asyncio.gather(*map(connection.get, keys)))

    assert uvloop.run(scenario()) == keys
    assert received == [[b"GET", key] for key in keys]


def test_replies_may_be_null_empty_or_errors() -> None:
    """A null reply is None, an empty one is empty, and an error is a value that ``await_reply`` raises."""
    replies = {b"none": encode_bulk(None), b"empty": encode_bulk(b""), b"error": b"-WRONGTYPE not a string\r\n"}

    async def scenario() -> None:
        async with connect_to(reply_with(lambda command: replies[command[1]])) as connection:
            assert await connection.get(b"none") is None
            assert await connection.get(b"empty") == b""
            assert isinstance(await connection.get(b"error"), hiredis.ReplyError)
            with pytest.raises(StoreUnavailableError, match="Redis returned an error: WRONGTYPE"):
                await await_reply(connection.get(b"error"))
            assert not connection.lost

    uvloop.run(scenario())


def test_calls_in_one_iteration_of_the_event_loop_share_one_write() -> None:
    """Calls made in the same iteration are sent as one packet, so that Redis answers them together."""
    packets: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            packets.append(data)
            writer.write(encode_bulk(b"x") * data.count(b"GET"))

    async def scenario() -> None:
        async with connect_to(handle) as connection:
            for _ in range(2):
                await asyncio.gather(*(connection.get(b"%d" % number) for number in range(50)))

    uvloop.run(scenario())
    assert [packet.count(b"GET") for packet in packets] == [50, 50]


def test_replies_may_arrive_in_pieces() -> None:
    """Replies that arrive byte by byte are reassembled."""
    values = [b"first", b"", b"\r\n$3\r\n", b"last"]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"last\r\n")
        for byte in b"".join(map(encode_bulk, values)):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def scenario() -> list[bytes]:
        async with connect_to(handle) as connection:
            return list(await asyncio.gather(*map(connection.get, values)))

    assert uvloop.run(scenario()) == values


def test_a_silent_server_is_dropped_at_the_deadline() -> None:
    """Every pending call fails with the reason, ``on_lost`` is called once, and further calls are refused."""
    reasons: list[str] = []

    async def scenario() -> None:
        async with connect_to(stay_silent(), DEADLINE_S) as connection:
            connection.on_lost = reasons.append
            first, second = connection.get(b"a"), connection.execute(b"PING")
            await assert_fails(first, "no reply within 50 ms")
            await assert_fails(second, "no reply within 50 ms")
            assert connection.lost
            with pytest.raises(StoreUnavailableError, match="closed"):
                connection.get(b"b")
            connection.drop("again")

    uvloop.run(scenario())
    assert reasons == ["no reply within 50 ms"]


def test_a_server_that_trickles_a_reply_is_dropped_too() -> None:
    """Incoming bytes do not extend the deadline: only a complete reply counts."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"$10000000\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.001)

    async def scenario() -> None:
        async with connect_to(handle, DEADLINE_S) as connection:
            await assert_fails(connection.get(b"a"), "no reply within")

    uvloop.run(scenario())


def test_a_server_that_falls_behind_is_dropped() -> None:
    """If each reply is later than the one before, no call waits much longer than the deadline."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for _ in read_commands(reader):
            if writer.is_closing():
                return
            await asyncio.sleep(0.001)
            send(writer, encode_bulk(b"x"))

    async def scenario() -> None:
        async with connect_to(handle, DEADLINE_S) as connection:
            calls = [connection.get(b"%d" % number) for number in range(1_000)]
            await assert_fails(calls[-1], "no reply within")
            await asyncio.gather(*calls, return_exceptions=True)

    uvloop.run(scenario())


def reply_after(may_reply: asyncio.Event) -> Handler:
    """Make a handler that replies only once the event is set."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in read_commands(reader):
            await may_reply.wait()
            send(writer, echo(command))

    return handle


def test_a_late_reply_reaches_no_other_caller() -> None:
    """A call that times out closes its connection, so its reply cannot be mistaken for another call's."""

    async def scenario() -> None:
        may_reply = asyncio.Event()
        async with serve(reply_after(may_reply)) as address:
            first = await connect(address, DEADLINE_S)
            await assert_fails(first.get(b"late"), "no reply within")
            may_reply.set()
            assert first.lost
            second = await connect(address, GENEROUS_S)
            assert await second.get(b"other") == b"other"
            second.drop("the test is over")

    uvloop.run(scenario())


def test_a_cancelled_call_keeps_its_place_in_the_queue() -> None:
    """Its reply is discarded on arrival, and all other calls get their own replies."""

    async def scenario() -> None:
        may_reply = asyncio.Event()
        async with connect_to(reply_after(may_reply)) as connection:
            calls = [connection.get(b"%d" % number) for number in range(4)]
            calls[0].cancel()
            calls[2].cancel()
            may_reply.set()
            assert [await calls[1], await calls[3]] == [b"1", b"3"]
            assert await connection.get(b"next") == b"next"

    uvloop.run(scenario())


def test_a_blocked_event_loop_does_not_count_against_the_server() -> None:
    """A reply that waits in the socket while the event loop is blocked beyond the deadline is still accepted."""
    blocked, replied = threading.Event(), threading.Event()

    def answer_once(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1_000)
            blocked.wait(GENEROUS_S)
            client.sendall(encode_bulk(b"value"))
            replied.set()
            client.recv(1_000)

    async def scenario(port: int) -> None:
        connection = await connect(RedisAddress(port=port), DEADLINE_S)
        loop, (local, remote) = asyncio.get_running_loop(), socket.socketpair()

        def block() -> None:
            # Runs as a socket callback: timers come next, and only then are other sockets read.
            loop.remove_reader(local)
            blocked.set()
            assert replied.wait(GENEROUS_S)
            time.sleep(3 * DEADLINE_S)

        with local, remote:
            loop.add_reader(local, block)
            reply = connection.get(b"key")
            await asyncio.sleep(0)  # lets the command be sent
            remote.send(b"x")
            assert await reply == b"value"
        connection.drop("the test is over")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_once, args=(listener,))
        thread.start()
        uvloop.run(scenario(listener.getsockname()[1]))
        thread.join()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unexpected reply"),
        (b"", "the connection was closed"),
        (b"$5\r\nhal", "the connection was closed"),
    ],
)
def test_a_malformed_or_truncated_reply_closes_the_connection(sent: bytes, reason: str) -> None:
    """Every pending call fails with the reason, and ``on_lost`` is called once."""
    reasons: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"last\r\n")
        writer.write(sent)
        if reason == "unexpected reply":
            await reader.read()

    async def scenario() -> None:
        async with connect_to(handle) as connection:
            connection.on_lost = reasons.append
            for call in [connection.get(b"first"), connection.get(b"last")]:
                await assert_fails(call, reason)

    uvloop.run(scenario())
    assert len(reasons) == 1


def test_an_unsolicited_reply_closes_the_connection() -> None:
    """After it, replies could no longer be matched to calls; replies before it are still delivered."""

    async def scenario() -> None:
        async with connect_to(reply_with(lambda command: 2 * echo(command))) as connection:
            assert await connection.get(b"a") == b"a"
            await wait_until(lambda: connection.lost)

    uvloop.run(scenario())


class TestConnect:
    """Opening a connection."""

    @pytest.mark.parametrize(
        ("login", "expected"),
        [
            ({}, []),
            ({"password": "pä ss"}, [["AUTH", "pä ss"]]),
            ({"username": "me", "password": "p"}, [["AUTH", "me", "p"]]),
            ({"username": "me", "password": "p", "db": 3}, [["AUTH", "me", "p"], ["SELECT", "3"]]),
            ({"db": 15}, [["SELECT", "15"]]),
        ],
    )
    def test_the_login_comes_first(self, login: dict[str, Any], expected: list[list[str]]) -> None:
        """User name, password and database are sent, if there are any, before anything is read."""
        received: list[Command] = []

        async def scenario() -> None:
            async with serve(reply_with(look_up({}), received)) as address:
                connection = await connect(replace(address, **login), GENEROUS_S)
                await connection.get(b"key")
                connection.drop("the test is over")

        uvloop.run(scenario())
        assert [[word.decode() for word in command] for command in received] == [*expected, ["GET", "key"]]

    def test_a_rejected_login_closes_the_connection(self) -> None:
        """The error is passed on without the password, and no connection stays open."""
        disconnected: list[bool] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async for _ in read_commands(reader):
                writer.write(b"-WRONGPASS invalid username-password pair\r\n")
            disconnected.append(True)

        async def scenario() -> None:
            async with serve(handle) as address:
                with pytest.raises(StoreUnavailableError, match="WRONGPASS") as caught:
                    await connect(replace(address, password="secret"), GENEROUS_S)
                assert "secret" not in str(caught.value)
                await wait_until(lambda: disconnected)

        uvloop.run(scenario())

    def test_a_server_that_hangs_during_the_login_is_dropped(self) -> None:
        """The deadline also applies before the first read."""

        async def scenario() -> None:
            async with serve(stay_silent()) as address:
                with pytest.raises(StoreUnavailableError, match="no reply within"):
                    await asyncio.wait_for(connect(replace(address, db=1), DEADLINE_S), GENEROUS_S)

        uvloop.run(scenario())

    @pytest.mark.parametrize(
        "address",
        [
            RedisAddress(port=1),
            RedisAddress(host="a..b"),
            RedisAddress(host="x" * 64),
            RedisAddress(path="/not/there.sock"),
        ],
    )
    def test_a_failed_connection_is_reported_with_its_address(self, address: RedisAddress) -> None:
        """An unused port, an impossible host name and a missing socket all mean that the store is unavailable."""
        with pytest.raises(StoreUnavailableError, match="cannot connect to") as caught:
            uvloop.run(connect(address, GENEROUS_S))
        assert str(address) in str(caught.value)

    def test_tls_is_never_downgraded(self) -> None:
        """A server without TLS never receives anything in plain text."""
        received: list[bytes] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.append(await reader.read(65_536))
            send(writer, b"-ERR unknown command\r\n")
            received.append(await reader.read(65_536))

        async def scenario() -> None:
            async with serve(handle) as address:
                tls_address = replace(address, tls=ssl.create_default_context(), password="secret")
                with pytest.raises(StoreUnavailableError, match="cannot connect to"):
                    await connect(tls_address, GENEROUS_S)

        uvloop.run(scenario())
        assert received[0]
        assert b"secret" not in b"".join(received)

    def test_a_unix_socket(self) -> None:
        """A Redis on the same machine can be reached through a Unix socket."""

        async def scenario(path: str) -> None:
            async with serve(reply_with(echo), path) as address:
                connection = await connect(address, GENEROUS_S)
                assert await connection.get(b"a") == b"a"
                connection.drop("the test is over")

        # Not pytest's tmp_path, which may exceed the maximum length of a socket path.
        with tempfile.TemporaryDirectory() as directory:
            uvloop.run(scenario(str(Path(directory) / "s")))
