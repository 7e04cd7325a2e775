"""Recent readers: what is buffered, what is written to Redis, and what remains after a failed write."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from include.serving import recent_readers as module
from include.serving.metrics import Metrics
from include.serving.recent_readers import MAX_ID_BYTES, MAX_STORED, RETENTION_S, RecentReaders
from include.serving.resp import StoreUnavailableError
from tests.unit.serving.loopback import Command, Handler, connect_to, reply_with, wait_until
from tests.unit.serving.samples import get_samples

NOW = 1_764_000_000


def get_written(received: list[Command]) -> dict[bytes, int]:
    """Collect the users and times of all ZADD commands, which must not repeat a user."""
    written: dict[bytes, int] = {}
    for command in received:
        if command[0] == b"ZADD":
            assert command[:3] == [b"ZADD", b"recs:recent-readers", b"GT"]
            pairs = dict(zip(command[4::2], map(int, command[3::2]), strict=True))
            assert not pairs.keys() & written.keys()
            written |= pairs
    return written


def flush(readers: RecentReaders, reply: bytes = b":1\r\n") -> list[Command]:
    """Flush to a server that always sends ``reply``, and return the commands it received."""
    received: list[Command] = []

    async def scenario() -> None:
        async with connect_to(reply_with(lambda _: reply, received)) as connection:
            await readers.flush(connection, NOW)

    uvloop.run(scenario())
    return received


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> int:
    """A buffer for only a few users; its size."""
    monkeypatch.setattr(module, "MAX_BUFFERED", 3)
    return 3


def test_each_user_is_written_with_the_last_request() -> None:
    """A user with several requests is written once, with the latest time, whatever the user id."""
    readers = RecentReaders(Metrics())
    for user, at in ((b"u", 1), (b"GT", 2), (b"u", 3), ("用 户\r\n".encode(), 4)):
        readers.record(user, NOW + at)
    assert get_written(flush(readers)) == {b"u": NOW + 3, b"GT": NOW + 2, "用 户\r\n".encode(): NOW + 4}
    assert flush(readers) == []


def test_the_set_in_redis_is_bounded() -> None:
    """Each flush also removes users without a recent request, and all but the latest million."""
    readers = RecentReaders(Metrics())
    readers.record(b"u", NOW)
    assert flush(readers)[1:] == [
        [b"ZREMRANGEBYSCORE", b"recs:recent-readers", b"-inf", b"(%d" % (NOW - RETENTION_S)],
        [b"ZREMRANGEBYRANK", b"recs:recent-readers", b"0", b"%d" % (-MAX_STORED - 1)],
    ]


def test_many_users_are_written_in_several_commands() -> None:
    """No command is long enough to keep Redis from serving other clients."""
    readers = RecentReaders(Metrics())
    users = {b"user-%d" % number: NOW + number for number in range(2_500)}
    for user, at in users.items():
        readers.record(user, at)
    received = flush(readers)
    assert get_written(received) == users
    assert max(map(len, received)) <= 2_003


def test_no_long_id_is_recorded() -> None:
    """However many invented ids are asked for, each takes a bounded number of bytes here and in Redis."""
    metrics = Metrics()
    readers = RecentReaders(metrics)
    readers.record(b"x" * MAX_ID_BYTES, NOW)
    readers.record("😀".encode() * MAX_ID_BYTES, NOW)
    assert get_written(flush(readers)) == {b"x" * MAX_ID_BYTES: NOW}
    assert get_samples(metrics)["millrace_reader_notes_dropped_total"] == 1


def test_the_buffer_is_bounded(small_buffer: int) -> None:
    """When the buffer is full, new users are counted as dropped, and users already in it are still updated."""
    metrics = Metrics()
    readers = RecentReaders(metrics)
    for number in range(small_buffer + 2):
        readers.record(b"%d" % number, NOW)
    readers.record(b"0", NOW + 9)
    assert get_samples(metrics)["millrace_reader_notes_dropped_total"] == 2
    assert get_written(flush(readers)) == {b"0": NOW + 9, b"1": NOW, b"2": NOW}


def test_a_failed_flush_is_repeated() -> None:
    """After an error the next flush writes the same users, with the later time for those with another request."""
    readers = RecentReaders(Metrics())
    for user in (b"once", b"again"):
        readers.record(user, NOW)
    with pytest.raises(StoreUnavailableError, match="NOPERM"):
        flush(readers, b"-NOPERM you may only read\r\n")
    readers.record(b"again", NOW + 5)
    readers.record(b"new", NOW + 6)
    assert get_written(flush(readers)) == {b"once": NOW, b"again": NOW + 5, b"new": NOW + 6}


async def interrupt_flush(readers: RecentReaders, *meanwhile: tuple[bytes, int]) -> None:
    """Start a flush, record these users while it runs, then lose the connection."""
    received: list[Command] = []
    async with connect_to(ignore_commands(received)) as connection:
        flushing = asyncio.create_task(readers.flush(connection, NOW))
        await wait_until(lambda: received)
        for user, at in meanwhile:
            readers.record(user, at)
        connection.drop("cut")
        with pytest.raises(StoreUnavailableError, match="cut"):
            await flushing


def ignore_commands(received: list[Command]) -> Handler:
    """Make a handler that receives commands and never replies."""
    return reply_with(lambda _: b"", received)


def test_users_recorded_during_a_failed_flush_are_not_lost() -> None:
    """Users from before and during the flush are merged, with the later time where both have one."""
    readers = RecentReaders(Metrics())
    readers.record(b"both", NOW)
    readers.record(b"before", NOW)
    uvloop.run(interrupt_flush(readers, (b"both", NOW + 1), (b"meanwhile", NOW + 1)))
    assert get_written(flush(readers)) == {b"both": NOW + 1, b"before": NOW, b"meanwhile": NOW + 1}


def test_the_buffer_stays_bounded_when_flushes_fail(small_buffer: int) -> None:
    """However many flushes fail, the buffer never exceeds its limit, and every dropped user is counted."""
    metrics = Metrics()
    readers = RecentReaders(metrics)
    for number in range(small_buffer):
        readers.record(b"%d" % number, NOW)
    for turn in range(1, 4):
        users = ((b"%d-%d" % (turn, number), NOW) for number in range(small_buffer))
        uvloop.run(interrupt_flush(readers, *users))
    assert len(get_written(flush(readers))) == small_buffer
    assert get_samples(metrics)["millrace_reader_notes_dropped_total"] == 3 * small_buffer


def test_a_cancelled_flush_loses_nobody() -> None:
    """If the reader shuts down during a flush, the final flush still writes every user."""
    readers = RecentReaders(Metrics())
    readers.record(b"u", NOW)

    async def scenario() -> None:
        received: list[Command] = []
        async with connect_to(ignore_commands(received)) as connection:
            flushing = asyncio.create_task(readers.flush(connection, NOW))
            await wait_until(lambda: received)
            flushing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flushing

    uvloop.run(scenario())
    assert get_written(flush(readers)) == {b"u": NOW}
