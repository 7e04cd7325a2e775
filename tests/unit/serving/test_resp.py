"""The connection to Redis, against a server on loopback that also does what Redis should not."""

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

from include.serving.address import Address
from include.serving.resp import StoreAwayError, answer, connect
from tests.unit.serving.loopback import (
    PATIENT_S,
    Command,
    Talk,
    bulk,
    commands,
    connected,
    holds,
    keeping,
    listening,
    replying,
    say,
    silent,
)

DEADLINE_S = 0.05


def echo(command: Command) -> bytes:
    """The key is the value."""
    return bulk(command[1])


async def fails(reply: asyncio.Future[Any], says: str) -> None:
    """The call ends with this reason, and not only because the test had enough."""
    with pytest.raises(StoreAwayError, match=says):
        await asyncio.wait_for(reply, PATIENT_S)


@given(st.lists(st.binary(), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_each_caller_gets_the_reply_to_its_key(keys: list[bytes]) -> None:
    """Whatever the keys and values are made of, and however many are asked at once."""
    heard: list[Command] = []

    async def scenario() -> list[bytes]:
        async with connected(replying(echo, heard)) as connection:
            return list(await asyncio.gather(*map(connection.get, keys)))

    assert uvloop.run(scenario()) == keys
    assert heard == [[b"GET", key] for key in keys]


def test_replies_may_be_absent_empty_or_errors() -> None:
    """No value is None, an empty one is empty, and an error is a value that ``answer`` raises."""
    replies = {b"none": bulk(None), b"empty": bulk(b""), b"error": b"-WRONGTYPE not a string\r\n"}

    async def scenario() -> None:
        async with connected(replying(lambda command: replies[command[1]])) as connection:
            assert await connection.get(b"none") is None
            assert await connection.get(b"empty") == b""
            assert isinstance(await connection.get(b"error"), hiredis.ReplyError)
            with pytest.raises(StoreAwayError, match="Redis refuses: WRONGTYPE"):
                await answer(connection.get(b"error"))
            assert not connection.lost

    uvloop.run(scenario())


def test_what_is_asked_in_one_turn_is_sent_in_one_write() -> None:
    """Callers of one turn of the event loop share a packet, so that Redis answers them together."""
    packets: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            packets.append(data)
            writer.write(bulk(b"x") * data.count(b"GET"))

    async def scenario() -> None:
        async with connected(talk) as connection:
            for _ in range(2):
                await asyncio.gather(*(connection.get(b"%d" % number) for number in range(50)))

    uvloop.run(scenario())
    assert [packet.count(b"GET") for packet in packets] == [50, 50]


def test_replies_may_come_in_pieces() -> None:
    """Replies that arrive byte by byte, and in pieces across their borders, are put together."""
    values = [b"first", b"", b"\r\n$3\r\n", b"last"]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"last\r\n")
        for byte in b"".join(map(bulk, values)):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def scenario() -> list[bytes]:
        async with connected(talk) as connection:
            return list(await asyncio.gather(*map(connection.get, values)))

    assert uvloop.run(scenario()) == values


def test_a_silent_server_is_left_after_the_deadline() -> None:
    """All that wait fail with the reason, it is told once, and nothing more can be asked."""
    reasons: list[str] = []

    async def scenario() -> None:
        async with connected(silent(), DEADLINE_S) as connection:
            connection.on_lost = reasons.append
            first, second = connection.get(b"a"), connection.call(b"PING")
            await fails(first, "no reply within 50 ms")
            await fails(second, "no reply within 50 ms")
            assert connection.lost
            with pytest.raises(StoreAwayError, match="lost"):
                connection.get(b"b")
            connection.drop("again")

    uvloop.run(scenario())
    assert reasons == ["no reply within 50 ms"]


def test_a_server_that_is_late_but_never_silent_is_left_too() -> None:
    """A reply that trickles is no reply: bytes that come in do not put the deadline off."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"$10000000\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.001)

    async def scenario() -> None:
        async with connected(talk, DEADLINE_S) as connection:
            await fails(connection.get(b"a"), "no reply within")

    uvloop.run(scenario())


def test_a_server_that_falls_behind_is_left() -> None:
    """Where every caller gets its reply, but each later than the one before, none waits much beyond the deadline."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for _ in commands(reader):
            if writer.is_closing():
                return
            await asyncio.sleep(0.001)
            say(writer, bulk(b"x"))

    async def scenario() -> None:
        async with connected(talk, DEADLINE_S) as connection:
            waiting = [connection.get(b"%d" % number) for number in range(1_000)]
            await fails(waiting[-1], "no reply within")
            await asyncio.gather(*waiting, return_exceptions=True)

    uvloop.run(scenario())


def held(may_reply: asyncio.Event) -> Talk:
    """Answers, but not before it may."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in commands(reader):
            await may_reply.wait()
            say(writer, echo(command))

    return talk


def test_a_late_reply_reaches_nobody_else() -> None:
    """A call that was given up as late takes its connection with it, so its reply cannot be taken for another's."""

    async def scenario() -> None:
        may_reply = asyncio.Event()
        async with listening(held(may_reply)) as address:
            first = await connect(address, DEADLINE_S)
            await fails(first.get(b"late"), "no reply within")
            may_reply.set()
            assert first.lost
            second = await connect(address, PATIENT_S)
            assert await second.get(b"other") == b"other"
            second.drop("the test ends")

    uvloop.run(scenario())


def test_a_cancelled_caller_leaves_its_place() -> None:
    """Its reply is thrown away when it comes, and those before and behind it get their own."""

    async def scenario() -> None:
        may_reply = asyncio.Event()
        async with connected(held(may_reply)) as connection:
            calls = [connection.get(b"%d" % number) for number in range(4)]
            calls[0].cancel()
            calls[2].cancel()
            may_reply.set()
            assert [await calls[1], await calls[3]] == [b"1", b"3"]
            assert await connection.get(b"next") == b"next"

    uvloop.run(scenario())


def test_our_own_delay_is_not_the_servers() -> None:
    """A reply that lies in the socket while our event loop is busy for longer than the deadline still counts."""
    blocked, replied = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1_000)
            blocked.wait(PATIENT_S)
            client.sendall(bulk(b"value"))
            replied.set()
            client.recv(1_000)

    async def scenario(port: int) -> None:
        connection = await connect(Address(port=port), DEADLINE_S)
        loop, (ours, theirs) = asyncio.get_running_loop(), socket.socketpair()

        def busy() -> None:
            # as the callback of a socket: timers come next, and only then is another socket read
            loop.remove_reader(ours)
            blocked.set()
            assert replied.wait(PATIENT_S)
            time.sleep(3 * DEADLINE_S)

        with ours, theirs:
            loop.add_reader(ours, busy)
            reply = connection.get(b"key")
            await asyncio.sleep(0)  # it is sent
            theirs.send(b"x")
            assert await reply == b"value"
        connection.drop("the test ends")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        uvloop.run(scenario(listener.getsockname()[1]))
        thread.join()


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "out of order"),
        (b"", "the connection ended"),
        (b"$5\r\nhal", "the connection ended"),
    ],
)
def test_what_makes_no_sense_ends_the_connection(sent: bytes, says: str) -> None:
    """Another protocol and an end in the middle: all that wait fail with the reason, which is told once."""
    reasons: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"last\r\n")
        writer.write(sent)
        if says == "out of order":
            await reader.read()

    async def scenario() -> None:
        async with connected(talk) as connection:
            connection.on_lost = reasons.append
            for call in [connection.get(b"first"), connection.get(b"last")]:
                await fails(call, says)

    uvloop.run(scenario())
    assert len(reasons) == 1


def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    """From then on no reply could be trusted to be the right caller's; those before it were."""

    async def scenario() -> None:
        async with connected(replying(lambda command: 2 * echo(command))) as connection:
            assert await connection.get(b"a") == b"a"
            await holds(lambda: connection.lost)

    uvloop.run(scenario())


class TestConnect:
    """The beginning of a connection."""

    @pytest.mark.parametrize(
        ("login", "heard"),
        [
            ({}, []),
            ({"password": "pä ss"}, [["AUTH", "pä ss"]]),
            ({"username": "me", "password": "p"}, [["AUTH", "me", "p"]]),
            ({"username": "me", "password": "p", "db": 3}, [["AUTH", "me", "p"], ["SELECT", "3"]]),
            ({"db": 15}, [["SELECT", "15"]]),
        ],
    )
    def test_the_login_comes_first(self, login: dict[str, Any], heard: list[list[str]]) -> None:
        """User, password and database are told, where there are any, before anything is read."""
        commands: list[Command] = []

        async def scenario() -> None:
            async with listening(replying(keeping({}), commands)) as address:
                connection = await connect(replace(address, **login), PATIENT_S)
                await connection.get(b"key")
                connection.drop("the test ends")

        uvloop.run(scenario())
        assert [[word.decode() for word in command] for command in commands] == [*heard, ["GET", "key"]]

    def test_a_refused_login_ends_the_connection(self) -> None:
        """The refusal is passed on without the password, and nothing stays open."""
        gone: list[bool] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async for _ in commands(reader):
                writer.write(b"-WRONGPASS invalid username-password pair\r\n")
            gone.append(True)

        async def scenario() -> None:
            async with listening(talk) as address:
                with pytest.raises(StoreAwayError, match="WRONGPASS") as caught:
                    await connect(replace(address, password="secret"), PATIENT_S)
                assert "secret" not in str(caught.value)
                await holds(lambda: gone)

        uvloop.run(scenario())

    def test_a_server_that_is_silent_at_login(self) -> None:
        """A server that hangs is left at the deadline, also before the first read."""

        async def scenario() -> None:
            async with listening(silent()) as address:
                with pytest.raises(StoreAwayError, match="no reply within"):
                    await asyncio.wait_for(connect(replace(address, db=1), DEADLINE_S), PATIENT_S)

        uvloop.run(scenario())

    @pytest.mark.parametrize(
        "address",
        [Address(port=1), Address(host="a..b"), Address(host="x" * 64), Address(path="/not/there.sock")],
    )
    def test_no_connection_is_told_with_the_address(self, address: Address) -> None:
        """Nobody listening, a name that no host can have, no such socket: all are a store that is away."""
        with pytest.raises(StoreAwayError, match="no connection to") as caught:
            uvloop.run(connect(address, PATIENT_S))
        assert str(address) in str(caught.value)

    def test_tls_with_a_server_that_has_none(self) -> None:
        """A server that does not speak TLS is never spoken to without."""
        heard: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(65_536))
            say(writer, b"-ERR unknown command\r\n")
            heard.append(await reader.read(65_536))

        async def scenario() -> None:
            async with listening(talk) as address:
                secured = replace(address, tls=ssl.create_default_context(), password="secret")
                with pytest.raises(StoreAwayError, match="no connection to"):
                    await connect(secured, PATIENT_S)

        uvloop.run(scenario())
        assert heard[0]
        assert b"secret" not in b"".join(heard)

    def test_a_unix_socket(self) -> None:
        """A Redis on the same machine may be reached by a socket's path."""

        async def scenario(path: str) -> None:
            async with listening(replying(echo), path) as address:
                connection = await connect(address, PATIENT_S)
                assert await connection.get(b"a") == b"a"
                connection.drop("the test ends")

        # not pytest's own folder, whose path may be longer than a socket's may be
        with tempfile.TemporaryDirectory() as folder:
            uvloop.run(scenario(str(Path(folder) / "s")))
