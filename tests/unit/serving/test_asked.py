"""Who asked: what is noted, what Redis is told, and what is kept when it cannot be told."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from include.serving import asked as module
from include.serving.asked import KEPT_S, MOST_KEPT, Asked
from include.serving.metrics import Metrics
from include.serving.resp import StoreAwayError
from tests.unit.serving.loopback import Command, Talk, connected, holds, replying

NOW = 1_764_000_000


def told(heard: list[Command]) -> dict[bytes, int]:
    """Users and seconds, of all commands that tell them; nobody twice."""
    found: dict[bytes, int] = {}
    for command in heard:
        if command[0] == b"ZADD":
            assert command[:3] == [b"ZADD", b"recs:asked", b"GT"]
            pairs = dict(zip(command[4::2], map(int, command[3::2]), strict=True))
            assert not pairs.keys() & found.keys()
            found |= pairs
    return found


def flushed(asked: Asked, reply: bytes = b":1\r\n") -> list[Command]:
    """What a Redis that answers so is told."""
    heard: list[Command] = []

    async def scenario() -> None:
        async with connected(replying(lambda _: reply, heard)) as connection:
            await asked.flush(connection, NOW)

    uvloop.run(scenario())
    return heard


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Room for a few notes only."""
    monkeypatch.setattr(module, "MOST_NOTED", 3)
    return 3


def test_each_user_is_told_with_the_last_request() -> None:
    """A user who asked often is told once, with the latest second, whatever the name."""
    asked = Asked(Metrics())
    for user, at in ((b"u", 1), (b"GT", 2), (b"u", 3), ("用 户\r\n".encode(), 4)):
        asked.note(user, NOW + at)
    assert told(flushed(asked)) == {b"u": NOW + 3, b"GT": NOW + 2, "用 户\r\n".encode(): NOW + 4}
    assert flushed(asked) == []


def test_redis_is_kept_small() -> None:
    """With the notes go the commands that forget who has not asked for long, and all beyond the latest million."""
    asked = Asked(Metrics())
    asked.note(b"u", NOW)
    assert flushed(asked)[1:] == [
        [b"ZREMRANGEBYSCORE", b"recs:asked", b"-inf", b"(%d" % (NOW - KEPT_S)],
        [b"ZREMRANGEBYRANK", b"recs:asked", b"0", b"%d" % (-MOST_KEPT - 1)],
    ]


def test_many_users_are_told_in_several_commands() -> None:
    """No command is so long that Redis would make others wait."""
    asked = Asked(Metrics())
    users = {b"user-%d" % number: NOW + number for number in range(2_500)}
    for user, at in users.items():
        asked.note(user, at)
    heard = flushed(asked)
    assert told(heard) == users
    assert max(map(len, heard)) <= 2_003


def test_notes_are_bounded(few: int) -> None:
    """Beyond the bound new users are counted as dropped; those noted already are still brought up to date."""
    metrics = Metrics()
    asked = Asked(metrics)
    for number in range(few + 2):
        asked.note(b"%d" % number, NOW)
    asked.note(b"0", NOW + 9)
    assert metrics.notes_dropped == 2
    assert told(flushed(asked)) == {b"0": NOW + 9, b"1": NOW, b"2": NOW}


def test_what_could_not_be_told_is_kept() -> None:
    """After a refusal the next flush tells the same users, those who asked again with the later second."""
    asked = Asked(Metrics())
    for user in (b"once", b"again"):
        asked.note(user, NOW)
    with pytest.raises(StoreAwayError, match="NOPERM"):
        flushed(asked, b"-NOPERM you may only read\r\n")
    asked.note(b"again", NOW + 5)
    asked.note(b"new", NOW + 6)
    assert told(flushed(asked)) == {b"once": NOW, b"again": NOW + 5, b"new": NOW + 6}


async def interrupted(asked: Asked, *meanwhile: tuple[bytes, int]) -> None:
    """A flush that is under way while these ask, and then loses its connection."""
    heard: list[Command] = []
    async with connected(_mute(heard)) as connection:
        flush = asyncio.create_task(asked.flush(connection, NOW))
        await holds(lambda: heard)
        for user, at in meanwhile:
            asked.note(user, at)
        connection.drop("cut")
        with pytest.raises(StoreAwayError, match="cut"):
            await flush


def _mute(heard: list[Command]) -> Talk:
    return replying(lambda _: b"", heard)


def test_who_asks_during_a_flush_that_fails_is_kept_too() -> None:
    """Notes from before and from meanwhile come together, the later second first."""
    asked = Asked(Metrics())
    asked.note(b"both", NOW)
    asked.note(b"before", NOW)
    uvloop.run(interrupted(asked, (b"both", NOW + 1), (b"meanwhile", NOW + 1)))
    assert told(flushed(asked)) == {b"both": NOW + 1, b"before": NOW, b"meanwhile": NOW + 1}


def test_notes_stay_bounded_when_flushes_fail(few: int) -> None:
    """However many flushes fail while others ask, there are never more notes than the bound; the rest is counted."""
    metrics = Metrics()
    asked = Asked(metrics)
    for number in range(few):
        asked.note(b"%d" % number, NOW)
    for turn in range(1, 4):
        uvloop.run(interrupted(asked, *((b"%d-%d" % (turn, number), NOW) for number in range(few))))
    assert len(told(flushed(asked))) == few
    assert metrics.notes_dropped == 3 * few


def test_a_cancelled_flush_loses_nobody() -> None:
    """When the reader ends in the middle of a flush, the last one still has everybody to tell."""
    asked = Asked(Metrics())
    asked.note(b"u", NOW)

    async def scenario() -> None:
        heard: list[Command] = []
        async with connected(_mute(heard)) as connection:
            flush = asyncio.create_task(asked.flush(connection, NOW))
            await holds(lambda: heard)
            flush.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flush

    uvloop.run(scenario())
    assert told(flushed(asked)) == {b"u": NOW}
