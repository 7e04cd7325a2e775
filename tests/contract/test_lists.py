"""The Lists port, held by one suite in memory and on the real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import redis

from include.domain.recommendation_list import (
    ASKED_KEY,
    CURRENT_KEY,
    RecommendationList,
    RecommendedItem,
    list_key,
    pack,
    popular_key,
)
from include.errors import ConfigurationError, PermanentError, TransientError
from include.ports import Lists
from include.settings import RedisSettings
from include.stores.memory_lists import MemoryLists
from include.stores.redis import LISTS_PER_PIPELINE, RedisLists

pytestmark = pytest.mark.servers("redis")

NOW = 1_764_000_000_000


@dataclass(frozen=True)
class Held:
    """The port, and a look at what it keeps."""

    lists: Lists
    get: Callable[[bytes], bytes | None]
    current: Callable[[], str | None]
    ask: Callable[[Mapping[str, int]], object]


@pytest.fixture(params=["memory", "real"])
def held(request: pytest.FixtureRequest) -> Iterator[Held]:
    """A Lists port; generations and users of other tests may be there."""
    if request.param == "memory":
        memory = MemoryLists()
        yield Held(memory, memory.get, lambda: memory.current, memory.asked.update)
        return
    settings: RedisSettings = request.getfixturevalue("redis_settings")
    lists = RedisLists(settings)
    with redis.Redis.from_url(settings.url) as probe:
        yield Held(lists, probe.get, lambda: _text(probe.get(CURRENT_KEY)), lambda users: probe.zadd(ASKED_KEY, users))
    lists.close()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def packed(version: int = NOW, item: str = "i1") -> bytes:
    """A packed list with one item."""
    return pack(RecommendationList(version, "similar_users", [RecommendedItem(item, 0.5, "é", "similar_users", "r")]))


def test_a_list_comes_out_as_it_went_in(held: Held, unique: str) -> None:
    """Whatever the user is called, the packed bytes are kept unchanged under that user's key."""
    users = ["plain", "a:b", "a b", "ünï\u2028", "用户", "*?[x]\\", "x" * 128, "{tag}", "\r\n$3"]
    lists = {user: packed(item=str(index)) for index, user in enumerate(users)}
    assert held.lists.publish(unique, lists, dict.fromkeys(users, 60)) == len(users)
    assert {user: held.get(list_key(unique, user)) for user in users} == lists


@pytest.mark.parametrize(
    ("older", "newer"),
    [(NOW, NOW + 1), (255, 256), (2**32 - 1, 2**32), (0x7F, 0x80), (0, 2**64 - 1), (2**53, 2**53 + 1), (0, 1)],
)
def test_the_newer_list_stays(held: Held, unique: str, older: int, newer: int) -> None:
    """Of two versions the higher stays, in either order, also where bytes or doubles would compare otherwise."""
    first, second = older.to_bytes(8, "big") + b"old", newer.to_bytes(8, "big") + b"new"
    ttl = {"up": 60, "down": 60}
    assert held.lists.publish(unique, {"up": first, "down": second}, ttl) == 2
    assert held.lists.publish(unique, {"up": second, "down": first}, ttl) == 1
    assert held.get(list_key(unique, "up")) == second
    assert held.get(list_key(unique, "down")) == second


def test_an_equal_version_is_written_again(held: Held, unique: str) -> None:
    """A retried run writes its lists once more, so that what it counts and the time to live are its own."""
    assert held.lists.publish(unique, {"u": packed(item="a")}, {"u": 60}) == 1
    assert held.lists.publish(unique, {"u": packed(item="b")}, {"u": 3600}) == 1
    assert held.get(list_key(unique, "u")) == packed(item="b")
    assert held.lists.expiring(unique, ["u"], 120) == []


def test_many_lists_take_several_pipelines(held: Held, unique: str) -> None:
    """More lists than one pipeline holds are all written, and all counted."""
    users = [f"u{number}" for number in range(2 * LISTS_PER_PIPELINE + 1)]
    assert held.lists.publish(unique, {user: packed(item=user) for user in users}, dict.fromkeys(users, 60)) == len(
        users
    )
    assert all(held.get(list_key(unique, user)) == packed(item=user) for user in users)


def test_nothing_to_publish(held: Held, unique: str) -> None:
    """An empty chunk is no error."""
    assert held.lists.publish(unique, {}, {}) == 0
    assert held.lists.expiring(unique, [], 60) == []


def test_the_newest_popular_list_stays(held: Held, unique: str) -> None:
    """The popular list too is kept by version."""
    held.lists.publish_popular(unique, packed(NOW, "new"), 60)
    held.lists.publish_popular(unique, packed(NOW - 1, "old"), 60)
    assert held.get(popular_key(unique)) == packed(NOW, "new")
    held.lists.publish_popular(unique, packed(NOW + 1, "newer"), 60)
    assert held.get(popular_key(unique)) == packed(NOW + 1, "newer")


def test_a_user_cannot_imitate_another_key(held: Held, unique: str) -> None:
    """A user named like the pointer or like another generation's user gets a key of its own."""
    held.lists.publish_popular(unique, packed(NOW, "popular"), 60)
    held.lists.publish(unique, {"current": packed(NOW + 1), f"popular:{unique}": packed(NOW + 1)}, _minute)
    assert held.get(popular_key(unique)) == packed(NOW, "popular")


def test_the_current_generation_is_named(held: Held, unique: str) -> None:
    """The generation that was made current last is the one that is served."""
    held.lists.make_current("other")
    held.lists.make_current(unique)
    assert held.current() == unique


def test_lists_near_their_end_are_expiring(held: Held, unique: str) -> None:
    """Absent lists and lists that end within the time are named, in the order of the users, others are not."""
    held.lists.publish(unique, {"soon": packed(), "late": packed()}, {"soon": 30, "late": 600})
    assert held.lists.expiring(unique, ["late", "none", "soon"], 60) == ["none", "soon"]
    assert held.lists.expiring(unique + "x", ["late", "soon"], 60) == ["late", "soon"]


def test_a_list_ends(held: Held, unique: str) -> None:
    """A list is gone when its time to live is over."""
    held.lists.publish(unique, {"u": packed()}, {"u": 1})
    assert held.get(list_key(unique, "u")) == packed()
    deadline = time.monotonic() + 5
    while held.get(list_key(unique, "u")) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held.get(list_key(unique, "u")) is None
    assert held.lists.publish(unique, {"u": packed(NOW - 5)}, {"u": 60}) == 1


def test_who_asked_lately(held: Held, unique: str) -> None:
    """Users whose last request is at or after the time are named, whatever they are called."""
    now = int(time.time()) + 1_000_000_000  # later than what any other test notes
    held.ask({f"{unique}-{name}": now + at for name, at in {"before": -1, "at": 0, "ünï": 5}.items()})
    assert sorted(user for user in held.lists.asked_since(now) if user.startswith(unique)) == [
        f"{unique}-at",
        f"{unique}-ünï",
    ]


def test_a_list_without_a_version_is_refused(held: Held, unique: str) -> None:
    """Bytes that pack() did not make are no list: nothing of the chunk is written."""
    with pytest.raises(PermanentError, match="version"):
        held.lists.publish(unique, {"u": packed(), "v": b"short"}, {"u": 60, "v": 60})
    assert held.get(list_key(unique, "u")) is None


class _Minute(dict[str, int]):
    def __missing__(self, _user: str) -> int:
        return 60


_minute = _Minute()


def test_a_server_that_forgot_the_script(redis_settings: RedisSettings, unique: str) -> None:
    """After a restart or SCRIPT FLUSH the script is loaded again and every list is written and counted once."""
    lists = RedisLists(redis_settings)
    with redis.Redis.from_url(redis_settings.url) as probe:
        probe.script_flush()
        assert lists.publish(unique, {"a": packed(), "b": packed()}, _minute) == 2
        probe.script_flush()
        assert lists.publish(unique, {"a": packed(NOW - 1), "b": packed(NOW + 1)}, _minute) == 1
    lists.close()


def test_a_foreign_key_is_a_permanent_error(redis_settings: RedisSettings, unique: str) -> None:
    """A key of another type at a list's place is named, not overwritten, and no other list is lost by it."""
    lists = RedisLists(redis_settings)
    with redis.Redis.from_url(redis_settings.url) as probe:
        probe.rpush(list_key(unique, "b"), "x")
        with pytest.raises(PermanentError, match="WRONGTYPE"):
            lists.publish(unique, {"a": packed(), "b": packed(), "c": packed()}, _minute)
        assert probe.get(list_key(unique, "c")) == packed()
    lists.close()


def test_a_wrong_password_is_a_permanent_error(redis_settings: RedisSettings, unique: str) -> None:
    """A refusal will not pass by itself."""
    lists = RedisLists(RedisSettings(redis_settings.url.replace("redis://:", "redis://:wrong")))
    with pytest.raises(PermanentError, match="Redis"):
        lists.publish(unique, {"a": packed()}, _minute)
    lists.close()


def test_a_server_that_is_away_is_a_transient_error(unique: str) -> None:
    """Nobody listens: it may pass."""
    lists = RedisLists(RedisSettings("redis://127.0.0.1:1/0"))
    for call in (
        lambda: lists.publish(unique, {"a": packed()}, _minute),
        lambda: lists.publish_popular(unique, packed(), 60),
        lambda: lists.make_current(unique),
        lambda: lists.expiring(unique, ["a"], 60),
        lambda: lists.asked_since(0),
    ):
        with pytest.raises(TransientError, match="Redis"):
            call()
    lists.close()


def test_a_wrong_url_is_named_without_its_password() -> None:
    """What is not a Redis URL is a wrong setting, and the message does not repeat it."""
    with pytest.raises(ConfigurationError) as caught:
        RedisLists(RedisSettings("http://:secret@host"))
    assert "secret" not in str(caught.value)
