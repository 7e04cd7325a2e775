"""Invariants 4 and 10: exactly the right messages are dead letters, and poison does not harm its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from include.settings import Settings
from tests.chaos.checker_readers import READERS, query_warehouse
from tests.chaos.checker_report import Report
from tests.chaos.checker_stores import find_missing
from tests.chaos.expected import POISON, Expected, hash_optional
from tests.chaos.expected_rules import RULE_REASONS
from tests.chaos.expected_topic import TopicMessage, read_topic

_MISSING = """
SELECT count(*) FROM messages WHERE reason IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM letters WHERE letters.shard = messages.shard AND letters.offset = messages.offset)
"""
_SEVERAL = "SELECT count(*) FROM (SELECT 1 FROM letters GROUP BY shard, offset HAVING count(*) > 1)"
_JOINED = "SELECT letters.reason, messages.reason FROM letters LEFT JOIN messages USING (shard, offset)"
_CHANGED = """
SELECT count(*) FROM letters JOIN messages USING (shard, offset)
WHERE letters.value_hash <> messages.value_hash OR letters.key_hash <> messages.key_hash
   OR letters.published_at <> messages.published_at
"""
_POISON_BATCHES = """
SELECT shard, start_offset, end_offset FROM pipeline.batches WHERE topic = %(topic)s AND mode = 'live'
"""
_POISON_IN = "SELECT count(*) FROM messages WHERE shard = ? AND offset >= ? AND offset < ? AND reason = 'poison'"
_NEIGHBOUR = "SELECT 1 FROM messages WHERE event_id = ? AND shard = ? AND offset >= ? AND offset < ? LIMIT 1"


def check_letters(settings: Settings, expected: Expected, report: Report) -> None:
    """Compare the topic of dead letters with the messages that belong there."""
    report.checked(4)
    report.checked(10)
    expected.insert("INSERT OR IGNORE INTO letters VALUES (?, ?, ?, ?, ?, ?)", _read_letters(settings, report))
    missing = expected.value(_MISSING)
    report.add(4, missing, f"{missing:,} invalid messages have no dead letter")
    several = expected.value(_SEVERAL)
    report.add(4, several, f"{several:,} messages have dead letters that differ")
    changed = expected.value(_CHANGED)
    report.add(4, changed, f"{changed:,} dead letters differ from their messages in key, value or time")
    _check_reasons(expected, report)


def _check_reasons(expected: Expected, report: Report) -> None:
    valid = blamed = wrong = 0
    for actual, due in expected.select(_JOINED):
        if due is None:
            valid += actual in RULE_REASONS
            blamed += actual not in RULE_REASONS
        elif due == POISON:
            wrong += actual in RULE_REASONS
        else:
            wrong += actual != due
    report.add(4, valid, f"{valid:,} valid events are dead letters")
    report.add(4, wrong, f"{wrong:,} dead letters have a wrong reason")
    report.add(10, blamed, f"{blamed:,} good messages are dead letters because of a store")


def check_neighbours(settings: Settings, expected: Expected, report: Report) -> None:
    """Every valid event of a batch with poison is in every store."""
    batches = query_warehouse(settings, _POISON_BATCHES, {"topic": settings.kafka.topic})
    poisoned = [batch for batch in batches if expected.value(_POISON_IN, *batch)]
    harmed = {
        event_id
        for store in READERS
        for event_id in find_missing(expected, store)
        if any(next(expected.select(_NEIGHBOUR, event_id, *batch), None) for batch in poisoned)
    }
    report.add(10, len(harmed), f"{len(harmed):,} events beside poison are not in every store", sorted(harmed))


def _read_letters(settings: Settings, report: Report) -> Iterator[tuple[Any, ...]]:
    unreadable = 0
    for message in read_topic(settings.kafka, settings.kafka.dead_letter_topic):
        row = _letter_row(message, settings.kafka.topic)
        if row is None:
            unreadable += 1
        else:
            yield row
    report.add(4, unreadable, f"{unreadable:,} dead letters do not say where they come from")


def _letter_row(message: TopicMessage, topic: str) -> tuple[Any, ...] | None:
    """A row of ``letters``; None if its headers and its key do not name one origin in the topic of events."""
    headers = {name: value.decode(errors="replace") for name, value in message.headers.items()}
    try:
        shard, offset, published_at = (int(headers[name]) for name in ("shard", "offset", "published_at"))
        reason = headers["reason"]
    except (KeyError, ValueError):
        return None
    origin = f"{topic}-{shard}-{offset}"
    if headers.get("origin") != origin or headers.get("topic") != topic or message.key != origin.encode():
        return None
    key = message.headers.get("key")
    return shard, offset, reason, published_at, hash_optional(key), hash_optional(message.value)
