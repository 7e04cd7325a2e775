"""The Lists port, in memory and on Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import redis

from include.domain.recommendation_list import (
    CURRENT_KEY,
    RECENT_READERS_KEY,
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
from include.stores.redis import KEYS_PER_PIPELINE, LISTS_PER_PIPELINE, RedisLists

pytestmark = pytest.mark.servers("redis")

NOW = 1_764_000_000_000


@dataclass(frozen=True)
class Subject:
    """The port, and direct access to its store."""

    lists: Lists
    get: Callable[[bytes], bytes | None]
    current: Callable[[], str | None]
    add_readers: Callable[[Mapping[str, int]], object]


@pytest.fixture(params=["memory", "real"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Each implementation of the port; it may already contain lists of other tests."""
    if request.param == "memory":
        memory = MemoryLists()
        yield Subject(memory, memory.get, lambda: memory.current, memory.requests.update)
        return
    settings: RedisSettings = request.getfixturevalue("redis_settings")
    lists = RedisLists(settings)
    with redis.Redis.from_url(settings.url) as probe:
        yield Subject(
            lists,
            probe.get,
            lambda: _text(probe.get(CURRENT_KEY)),
            lambda users: probe.zadd(RECENT_READERS_KEY, users),
        )
    lists.close()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def packed(version: int = NOW, item: str = "i1") -> bytes:
    """A packed list with one item."""
    return pack(RecommendationList(version, "similar_users", [RecommendedItem(item, 0.5, "é", "similar_users", "r")]))


def test_a_list_is_stored_unchanged(subject: Subject, unique: str) -> None:
    """The packed bytes are stored under the user's key, whatever characters the user's id has."""
    users = ["plain", "a:b", "a b", "ünï\u2028", "用户", "*?[x]\\", "x" * 128, "{tag}", "\r\n$3"]
    lists = {user: packed(item=str(index)) for index, user in enumerate(users)}
    assert subject.lists.publish(unique, lists, dict.fromkeys(users, 60)) == len(users)
    assert {user: subject.get(list_key(unique, user)) for user in users} == lists


@pytest.mark.parametrize(
    ("older", "newer"),
    [(NOW, NOW + 1), (255, 256), (2**32 - 1, 2**32), (0x7F, 0x80), (0, 2**64 - 1), (2**53, 2**53 + 1), (0, 1)],
)
def test_the_newer_list_wins(subject: Subject, unique: str, older: int, newer: int) -> None:
    """The higher version wins in either order, even where comparing signed bytes or doubles would fail."""
    first, second = older.to_bytes(8, "big") + b"old", newer.to_bytes(8, "big") + b"new"
    ttl = {"up": 60, "down": 60}
    assert subject.lists.publish(unique, {"up": first, "down": second}, ttl) == 2
    assert subject.lists.publish(unique, {"up": second, "down": first}, ttl) == 1
    assert subject.get(list_key(unique, "up")) == second
    assert subject.get(list_key(unique, "down")) == second


def test_an_equal_version_is_written_again(subject: Subject, unique: str) -> None:
    """A retried run writes its lists again, so its count is right and the time to live starts again."""
    assert subject.lists.publish(unique, {"u": packed(item="a")}, {"u": 60}) == 1
    assert subject.lists.publish(unique, {"u": packed(item="b")}, {"u": 3600}) == 1
    assert subject.get(list_key(unique, "u")) == packed(item="b")
    assert subject.lists.find_expiring(unique, ["u"], 120) == []


def test_many_lists_take_several_pipelines(subject: Subject, unique: str) -> None:
    """More lists than fit in one pipeline are all written and counted."""
    users = [f"u{number}" for number in range(2 * LISTS_PER_PIPELINE + 1)]
    lists = {user: packed(item=user) for user in users}
    assert subject.lists.publish(unique, lists, dict.fromkeys(users, 60)) == len(users)
    assert all(subject.get(list_key(unique, user)) == packed(item=user) for user in users)


def test_an_empty_chunk_publishes_nothing(subject: Subject, unique: str) -> None:
    """Publishing nothing is not an error."""
    assert subject.lists.publish(unique, {}, {}) == 0
    assert subject.lists.find_expiring(unique, [], 60) == []


def test_the_newest_popular_list_wins(subject: Subject, unique: str) -> None:
    """An older popular list does not replace a newer one."""
    subject.lists.publish_popular(unique, packed(NOW, "new"), 60)
    subject.lists.publish_popular(unique, packed(NOW - 1, "old"), 60)
    assert subject.get(popular_key(unique)) == packed(NOW, "new")
    subject.lists.publish_popular(unique, packed(NOW + 1, "newer"), 60)
    assert subject.get(popular_key(unique)) == packed(NOW + 1, "newer")


def test_a_user_id_cannot_collide_with_another_key(subject: Subject, unique: str) -> None:
    """A user whose id looks like another key gets a separate key."""
    subject.lists.publish_popular(unique, packed(NOW, "popular"), 60)
    subject.lists.publish(unique, {"current": packed(NOW + 1), f"popular:{unique}": packed(NOW + 1)}, ONE_MINUTE)
    assert subject.get(popular_key(unique)) == packed(NOW, "popular")


def test_the_current_generation_is_the_last_one_set(subject: Subject, unique: str) -> None:
    """Readers are pointed to the generation that was set last."""
    subject.lists.set_current_generation("other")
    subject.lists.set_current_generation(unique)
    assert subject.current() == unique


def test_lists_that_expire_soon_are_reported(subject: Subject, unique: str) -> None:
    """Users whose list is missing or expires within the given time are returned, in the order of the request."""
    subject.lists.publish(unique, {"soon": packed(), "late": packed()}, {"soon": 30, "late": 600})
    assert subject.lists.find_expiring(unique, ["late", "none", "soon"], 60) == ["none", "soon"]
    assert subject.lists.find_expiring(unique + "x", ["late", "soon"], 60) == ["late", "soon"]


def test_a_list_expires(subject: Subject, unique: str) -> None:
    """A list is deleted when its time to live is over, and then an older version may be written."""
    subject.lists.publish(unique, {"u": packed()}, {"u": 1})
    assert subject.get(list_key(unique, "u")) == packed()
    deadline = time.monotonic() + 5
    while subject.get(list_key(unique, "u")) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert subject.get(list_key(unique, "u")) is None
    assert subject.lists.publish(unique, {"u": packed(NOW - 5)}, {"u": 60}) == 1


def test_recent_readers_are_the_users_since_the_given_time(subject: Subject, unique: str) -> None:
    """Users whose last request is at or after the given time are returned, whatever characters their ids contain."""
    now = int(time.time()) + 1_000_000_000  # later than any other test's requests
    requests = {"before": now - 1, "at": now, "ünï": now + 5}
    subject.add_readers({f"{unique}-{name}": time for name, time in requests.items()})
    assert sorted(user for user in subject.lists.read_recent_readers(now) if user.startswith(unique)) == [
        f"{unique}-at",
        f"{unique}-ünï",
    ]


def test_readers_can_be_forgotten(subject: Subject, unique: str) -> None:
    """Forgotten users no longer count as recent readers; all others still do, and unknown names change nothing."""
    now = int(time.time()) + 2_000_000_000  # later than any other test's requests
    users = [f"{unique}-{number}" for number in range(KEYS_PER_PIPELINE + 2)]
    subject.add_readers(dict.fromkeys(users, now))
    subject.lists.forget_readers([f"{unique}-unknown", *users[1:]])
    subject.lists.forget_readers([])
    assert list(subject.lists.read_recent_readers(now)) == users[:1]
    subject.lists.forget_readers(users)


def test_a_list_without_a_version_is_rejected(subject: Subject, unique: str) -> None:
    """If any value is not a packed list, nothing of the chunk is written."""
    with pytest.raises(PermanentError, match="version"):
        subject.lists.publish(unique, {"u": packed(), "v": b"short"}, {"u": 60, "v": 60})
    assert subject.get(list_key(unique, "u")) is None


class _OneMinute(dict[str, int]):
    """A time to live of one minute for every user."""

    def __missing__(self, _user: str) -> int:
        return 60


ONE_MINUTE = _OneMinute()


def test_the_script_is_loaded_again_if_missing(redis_settings: RedisSettings, unique: str) -> None:
    """After a restart or SCRIPT FLUSH every list is still written and counted once."""
    lists = RedisLists(redis_settings)
    with redis.Redis.from_url(redis_settings.url) as probe:
        probe.script_flush()
        assert lists.publish(unique, {"a": packed(), "b": packed()}, ONE_MINUTE) == 2
        probe.script_flush()
        assert lists.publish(unique, {"a": packed(NOW - 1), "b": packed(NOW + 1)}, ONE_MINUTE) == 1
    lists.close()


def test_a_key_of_another_type_is_a_permanent_error(redis_settings: RedisSettings, unique: str) -> None:
    """A key of another type is reported, not overwritten, and the other lists are still written."""
    lists = RedisLists(redis_settings)
    with redis.Redis.from_url(redis_settings.url) as probe:
        probe.rpush(list_key(unique, "b"), "x")
        with pytest.raises(PermanentError, match="WRONGTYPE"):
            lists.publish(unique, {"a": packed(), "b": packed(), "c": packed()}, ONE_MINUTE)
        assert probe.get(list_key(unique, "c")) == packed()
    lists.close()


def test_a_wrong_password_is_a_permanent_error(redis_settings: RedisSettings, unique: str) -> None:
    """A wrong password is not worth a retry."""
    lists = RedisLists(RedisSettings(redis_settings.url.replace("redis://:", "redis://:wrong")))
    with pytest.raises(PermanentError, match="Redis"):
        lists.publish(unique, {"a": packed()}, ONE_MINUTE)
    lists.close()


def test_an_unavailable_server_is_a_transient_error(unique: str) -> None:
    """A refused connection is worth a retry, whichever call it interrupts."""
    lists = RedisLists(RedisSettings("redis://127.0.0.1:1/0"))
    for call in (
        lambda: lists.publish(unique, {"a": packed()}, ONE_MINUTE),
        lambda: lists.publish_popular(unique, packed(), 60),
        lambda: lists.set_current_generation(unique),
        lambda: lists.find_expiring(unique, ["a"], 60),
        lambda: lists.read_recent_readers(0),
        lambda: lists.forget_readers(["a"]),
    ):
        with pytest.raises(TransientError, match="Redis"):
            call()
    lists.close()


def test_the_error_for_an_invalid_url_hides_its_password() -> None:
    """An invalid URL is a configuration error whose message does not repeat the URL."""
    with pytest.raises(ConfigurationError) as caught:
        RedisLists(RedisSettings("http://:secret@host"))
    assert "secret" not in str(caught.value)
