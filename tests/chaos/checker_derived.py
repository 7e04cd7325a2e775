"""Invariant 8, in the warehouse and in Milvus: hours, marks, and the profile of every user."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import batched, groupby
from operator import itemgetter

import numpy as np

from include.settings import Settings
from tests.chaos.checker_readers import open_milvus, query_rows, query_warehouse
from tests.chaos.checker_report import Report
from tests.chaos.checker_stores import is_same_direction, read_text_vectors
from tests.chaos.expected import Expected
from tests.chaos.expected_rules import hash_bytes

_USERS_PER_QUERY = 500
#: A mean this close to the centre has no direction.
_NO_DIRECTION = 1e-6

_HOURS = """
SELECT (extract(epoch FROM hour) * 1000)::bigint, item_id, campaign_id, kind, events, users, value::float8
FROM engagement_hourly
"""
_MARKS = """
SELECT (SELECT count(*) FROM pipeline.touched_hours), (SELECT count(DISTINCT user_id) FROM pipeline.changed_users)
"""
_CENTRE = "SELECT centre FROM pipeline.text_centres WHERE generation = %(generation)s"
_RECOUNT = """
SELECT hour, coalesce(item_id, ''), coalesce(campaign_id, ''), kind, count(*), count(DISTINCT user_id),
       coalesce(sum(value), 0)
FROM events GROUP BY 1, 2, 3, 4
"""
_CREATE_HOURS = """
CREATE TABLE hours (hour INTEGER, item_id TEXT, campaign_id TEXT, kind TEXT, events INTEGER, users INTEGER, value REAL)
"""
_SAME_ROWS = """
SELECT count(*) FROM hours JOIN recount USING (hour, item_id, campaign_id, kind)
WHERE hours.events = recount.events AND hours.users = recount.users
  AND abs(hours.value - recount.value) <= 1e-9 * max(1, abs(recount.value))
"""
_USER_TEXTS = """
SELECT user_id, text_hash, count(*) FROM events
WHERE text_hash IS NOT NULL AND user_id IN (SELECT value FROM json_each(?))
GROUP BY user_id, text_hash ORDER BY user_id
"""


def check_hours(settings: Settings, expected: Expected, report: Report) -> None:
    """Compare engagement_hourly with a recount, and check that nothing is marked for another one."""
    report.checked(8)
    expected.execute(_CREATE_HOURS)
    expected.execute(f"CREATE TABLE recount AS SELECT * FROM hours UNION ALL {_RECOUNT}")
    expected.execute("CREATE INDEX recount_key ON recount (hour, item_id, campaign_id, kind)")
    expected.insert("INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?)", query_warehouse(settings, _HOURS))
    same = expected.value(_SAME_ROWS)
    rows, recount = expected.value("SELECT count(*) FROM hours"), expected.value("SELECT count(*) FROM recount")
    wrong = max(rows, recount) - same
    report.add(8, wrong, f"engagement_hourly has {rows:,} rows, a recount {recount:,}; {wrong:,} differ")
    hours, users = next(query_warehouse(settings, _MARKS))
    report.add(8, hours, f"{hours:,} hours wait to be recounted")
    report.add(8, users, f"{users:,} users wait for their lists")


def check_profiles(settings: Settings, expected: Expected, report: Report, total: int) -> None:
    """Compare every profile with the centred mean of the user's text vectors, and look for profiles of nobody.

    ``total`` is the number of profiles in Milvus.
    """
    report.checked(8)
    name = f"{settings.milvus.profile_collection}_{settings.embed.generation.name}"
    centre = _read_centre(settings)
    missing: list[str] = []
    wrong: list[str] = []
    left: list[str] = []
    found = 0
    with closing(open_milvus(settings.milvus)) as client:
        users = (user for (user,) in expected.select("SELECT DISTINCT user_id FROM events ORDER BY user_id"))
        for chunk in batched(users, _USERS_PER_QUERY):
            rows = query_rows(client, name, _any_of(chunk)) if total else []
            stored = {row["id"]: np.asarray(row["vector"], dtype=np.float32) for row in rows}
            found += len(stored)
            due = _expected_profiles(settings, expected, chunk, centre)
            missing += due.keys() - stored.keys()
            left += stored.keys() - due.keys()
            wrong += [user for user in due.keys() & stored.keys() if not is_same_direction(due[user], stored[user])]
    report.add(8, len(missing), f"{len(missing):,} users with texts have no profile", _hashed(missing))
    report.add(8, len(left), f"{len(left):,} users without texts have a profile", _hashed(left))
    report.add(8, len(wrong), f"{len(wrong):,} profiles are not the mean of the user's texts", _hashed(wrong))
    report.add(8, abs(total - found), f"{abs(total - found):,} profiles belong to nobody, or are stored twice")


def _hashed(users: Sequence[str]) -> Iterator[str]:
    return (hash_bytes(user.encode()) for user in sorted(users))


def _any_of(users: Sequence[str]) -> str:
    """A filter of Milvus; its strings are quoted as JSON's, but it knows no unicode escapes."""
    return f"id in {json.dumps(list(users), ensure_ascii=False)}"


def _read_centre(settings: Settings) -> np.ndarray | None:
    rows = list(query_warehouse(settings, _CENTRE, {"generation": settings.embed.generation.name}))
    return np.frombuffer(rows[0][0], dtype="<f4") if rows else None


def _expected_profiles(
    settings: Settings, expected: Expected, users: Sequence[str], centre: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The profile of each of these users who has texts; none if their mean is the centre itself."""
    rows: list[tuple[str, str, int]] = list(expected.select(_USER_TEXTS, json.dumps(list(users))))
    vectors = read_text_vectors(settings, sorted({text for _, text, _ in rows}))
    profiles = {}
    for user, texts in groupby(rows, key=itemgetter(0)):
        profile = _mean([(vectors[text], times) for _, text, times in texts if text in vectors], centre)
        if profile is not None:
            profiles[user] = profile
    return profiles


def _mean(texts: Sequence[tuple[np.ndarray, int]], centre: np.ndarray | None) -> np.ndarray | None:
    if not texts:
        return None
    total = np.zeros(len(texts[0][0]), dtype=np.float64)
    for vector, times in texts:
        total += times * vector.astype(np.float64)
    mean = total / sum(times for _, times in texts)
    shifted: np.ndarray = mean if centre is None else mean - centre
    return shifted if float(np.linalg.norm(shifted)) > _NO_DIRECTION else None
