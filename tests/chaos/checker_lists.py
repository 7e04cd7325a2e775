"""Invariant 8, in Redis: the lists of known users only, none from the future, and the popular list."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import batched
from typing import Any, NamedTuple

import msgspec
import redis

from include.settings import Settings
from tests.chaos.checker_readers import query_warehouse
from tests.chaos.checker_report import Report
from tests.chaos.expected import Expected
from tests.chaos.expected_rules import hash_bytes

_CHUNK = 1_000
_MAX_ITEMS = 60
_MAX_TEXT = 200
#: docs/recommendations.md: the weight of an engagement halves every 30 days. Half-lives beyond the last do not count.
_DAY_MS = 86_400_000
_HALF_LIFE_MS = 30 * _DAY_MS
_MAX_HALF_LIVES = 1_000
_FIRST_HOUR = -(2**62)
#: Lists round their scores to six digits.
_ROUNDING = 1e-6

_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_BY_HOUR = "SELECT item_id, hour, sum(weight) FROM events WHERE item_id IS NOT NULL GROUP BY item_id, hour"
# Users who had an event lately, by the hour: their lists are refreshed before they expire.
_ACTIVE = "INSERT INTO active SELECT DISTINCT user_id FROM events WHERE hour >= {since}"
_TITLE = """
SELECT text FROM events WHERE item_id = ? AND text IS NOT NULL AND kind <> 'message'
ORDER BY occurred_at DESC, event_id LIMIT 1
"""


class PackedList(NamedTuple):
    """A list as Redis has it. ``items``: (item, score, text, source)."""

    version: int
    generated_at: int
    items: Sequence[tuple[str, float, str | None, str]]


def unpack(packed: bytes) -> PackedList:
    """Eight bytes of version, then MessagePack."""
    generated_at, _, items = msgspec.msgpack.decode(packed[8:])
    return PackedList(int.from_bytes(packed[:8], "big"), generated_at, [tuple(item[:4]) for item in items])


def read_lists(settings: Settings) -> Iterator[dict[str, bytes]]:
    """The packed lists of the generation by user, in chunks. A list that expires in the meantime is left out."""
    start = f"recs:{settings.embed.generation.name}:".encode()
    with closing(redis.Redis.from_url(settings.redis.url, socket_timeout=20)) as client:
        for keys in batched(client.scan_iter(match=start + b"*", count=_CHUNK), _CHUNK):
            values: Any = client.mget(keys)
            yield {key[len(start) :].decode(): value for key, value in zip(keys, values, strict=True) if value}


def check_lists(settings: Settings, expected: Expected, report: Report) -> None:
    """Check every list, and recompute the popular one."""
    report.checked(8)
    (now,) = next(query_warehouse(settings, _CLOCK))
    problems: defaultdict[str, list[str]] = defaultdict(list)
    _find_active_users(settings, expected, now)
    for chunk in read_lists(settings):
        own = _own_items(expected, list(chunk))
        expected.insert("DELETE FROM active WHERE user_id = ?", [(user,) for user in chunk])
        for user, packed in chunk.items():
            for problem in _find_problems(user, unpack(packed), own, now):
                problems[problem].append(hash_bytes(user.encode()))
    for problem, users in sorted(problems.items()):
        report.add(8, len(users), f"{len(users):,} lists {problem}", sorted(users))
    lost = [hash_bytes(user.encode()) for (user,) in expected.select("SELECT user_id FROM active")]
    report.add(8, len(lost), f"{len(lost):,} active users have no list", sorted(lost))
    with closing(redis.Redis.from_url(settings.redis.url, socket_timeout=20)) as client:
        generation = settings.embed.generation.name
        current: Any = client.get("recs:current")
        popular: Any = client.get(f"popular:{generation}")
    report.add(8, current != generation.encode(), "recs:current names another generation")
    _check_popular(settings, expected, report, None if popular is None else unpack(popular), now)


def _find_active_users(settings: Settings, expected: Expected, now: int) -> None:
    """Fill the table ``active`` with the users who must have a list."""
    days = settings.pipeline.active_days
    newest = expected.value("SELECT max(occurred_at) FROM events")
    as_of = newest if settings.pipeline.as_of == "newest_event" and newest is not None else now
    expected.execute("CREATE TABLE active (user_id TEXT PRIMARY KEY) WITHOUT ROWID")
    expected.execute(_ACTIVE.format(since=_FIRST_HOUR if days is None else as_of - days * _DAY_MS))


def _own_items(expected: Expected, users: Sequence[str]) -> dict[str, set[str]]:
    """The items of those of the users who have an event."""
    query = "SELECT user_id, item_id FROM events WHERE user_id IN (SELECT value FROM json_each(?))"
    own: dict[str, set[str]] = {}
    for user, item in expected.select(query, json.dumps(users)):
        own.setdefault(user, set()).add(item)
    return own


def _find_problems(user: str, stored: PackedList, own: Mapping[str, set[str]], now: int) -> Iterator[str]:
    items = [item for item, *_ in stored.items]
    if user not in own:
        yield "belong to users without an event"
    if stored.generated_at > now:
        yield "are from the future"
    if stored.version != stored.generated_at:
        yield "have a version that is not their time"
    if len(items) > _MAX_ITEMS or len(set(items)) < len(items):
        yield "are too long or repeat an item"
    if own.get(user, set()).intersection(items):
        yield "have items that the user already has"


def _check_popular(settings: Settings, expected: Expected, report: Report, stored: PackedList | None, now: int) -> None:
    if stored is None:
        report.add(8, 1, "there is no popular list")
        return
    newest = expected.value("SELECT max(occurred_at) FROM events")
    as_of = newest if settings.pipeline.as_of == "newest_event" and newest is not None else stored.generated_at
    scores = _popular_scores(expected, as_of)
    wrong = _count_wrong(stored, scores)
    report.add(8, wrong, f"{wrong:,} places of the popular list differ from a recount")
    report.add(8, stored.generated_at > now, "the popular list is from the future")
    titles = sum(text != _title(expected, item) for item, _, text, _ in stored.items if item in scores)
    report.add(8, titles, f"{titles:,} items of the popular list have another text than their newest")


def _popular_scores(expected: Expected, as_of: int) -> dict[str, float]:
    scores: defaultdict[str, float] = defaultdict(float)
    engaged = set()
    for item, hour, weight in expected.select(_BY_HOUR):
        scores[item] += weight * 0.5 ** min(_MAX_HALF_LIVES, max(0, as_of - hour) / _HALF_LIFE_MS)
        if weight > 0:
            engaged.add(item)
    return {item: scores[item] for item in engaged}


def _count_wrong(stored: PackedList, scores: Mapping[str, float]) -> int:
    """How many places have a wrong item or score. Items whose scores are equal may change places."""
    best = sorted(scores.values(), reverse=True)[:_MAX_ITEMS]
    wrong = abs(len(best) - len(stored.items))
    for (item, score, *_), due in zip(stored.items, best, strict=False):
        wrong += not math.isclose(scores.get(item, -1), due, rel_tol=1e-9) or abs(score - due) > _ROUNDING
    return wrong


def _title(expected: Expected, item: str) -> str | None:
    """The newest text of the item that is not a message, cut to 200 characters."""
    row = next(expected.select(_TITLE, item), None)
    if row is None or len(row[0]) <= _MAX_TEXT:
        return None if row is None else str(row[0])
    return str(row[0])[: _MAX_TEXT - 1].rstrip() + "…"
