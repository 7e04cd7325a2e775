"""What every store must have, worked out from the messages of the topic, in SQLite so that memory does not grow."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import batched
from pathlib import Path
from typing import Any, NamedTuple

from include.settings import KafkaSettings
from tests.chaos.expected_rules import HOUR_MS, ExpectedEvent, hash_bytes, kind_weight, read_message
from tests.chaos.expected_topic import TopicMessage, read_topic

#: The reason of a message that some store refuses: it is not a rule, and the letter names the store.
POISON = "poison"

_CHUNK = 2_000

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -64000;
-- Every message. reason: why it must be a dead letter ('poison' if a store refuses it); otherwise it has an event_id.
CREATE TABLE messages (
    shard INTEGER, offset INTEGER, reason TEXT, event_id TEXT, version INTEGER, digest TEXT,
    published_at INTEGER, key_hash TEXT, value_hash TEXT, PRIMARY KEY (shard, offset)
) WITHOUT ROWID;
CREATE INDEX messages_event ON messages (event_id);
-- The winning revision of each valid event.
CREATE TABLE events (
    event_id TEXT PRIMARY KEY, user_id TEXT, message_id TEXT, kind TEXT, occurred_at INTEGER, text TEXT, item_id TEXT,
    campaign_id TEXT, value REAL, version INTEGER, digest TEXT, extra TEXT, text_hash TEXT, hour INTEGER, weight REAL
) WITHOUT ROWID;
CREATE INDEX events_user ON events (user_id);
CREATE INDEX events_item ON events (item_id);
CREATE INDEX events_hour ON events (hour);
-- What losing revisions may have left for good: nobody removes a campaign from an item.
CREATE TABLE item_campaigns (item_id TEXT, campaign_id TEXT, PRIMARY KEY (item_id, campaign_id)) WITHOUT ROWID;
-- What a store has: how often each event was found there.
CREATE TABLE found (store TEXT, event_id TEXT, times INTEGER, PRIMARY KEY (store, event_id)) WITHOUT ROWID;
-- The distinct dead letters: a letter that was put twice counts once.
CREATE TABLE letters (
    shard INTEGER, offset INTEGER, reason TEXT, published_at INTEGER, key_hash TEXT, value_hash TEXT,
    UNIQUE (shard, offset, reason, published_at, key_hash, value_hash)
);
"""
_INSERT_MESSAGE = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# "The higher version wins, then the higher digest", once more: see include/domain/precedence.py.
_UPSERT_EVENT = """
INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id) DO UPDATE SET
    kind = excluded.kind, occurred_at = excluded.occurred_at, text = excluded.text, item_id = excluded.item_id,
    campaign_id = excluded.campaign_id, value = excluded.value, version = excluded.version, digest = excluded.digest,
    extra = excluded.extra, text_hash = excluded.text_hash, hour = excluded.hour, weight = excluded.weight
WHERE excluded.version > version OR (excluded.version = version AND excluded.digest > digest)
"""
_FIND_EVENTS = "SELECT {columns} FROM events WHERE {condition} AND event_id IN (SELECT value FROM json_each(?))"

type IsPoison = Callable[[str, bytes | None], bool]


class Expected:
    """The expected state. ``select`` runs any query on the tables above."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def load(self, messages: Iterable[TopicMessage], topic: str, is_poison: IsPoison) -> None:
        """Add messages, in any order."""
        for chunk in batched(messages, _CHUNK):
            verdicts = [_judge(message, topic, is_poison) for message in chunk]
            self._connection.executemany(_INSERT_MESSAGE, map(_message_row, chunk, verdicts))
            valid = [verdict.event for verdict in verdicts if verdict.event and not verdict.reason]
            self._connection.executemany(_UPSERT_EVENT, map(_event_row, valid))
            events = [verdict.event for verdict in verdicts if verdict.event]
            pairs = [(event.item_id, event.campaign_id) for event in events if event.item_id and event.campaign_id]
            self._connection.executemany("INSERT OR IGNORE INTO item_campaigns VALUES (?, ?)", pairs)

    def execute(self, statement: str) -> None:
        """Run a statement, for tables of a part of the checker."""
        self._connection.execute(statement)

    def insert(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for every row."""
        self._connection.executemany(statement, rows)

    def select(self, query: str, *parameters: object) -> Iterator[Any]:
        """The rows of a query, one by one."""
        return iter(self._connection.execute(query, parameters))

    def value(self, query: str, *parameters: object) -> Any:
        """The only value of a query."""
        return self._connection.execute(query, parameters).fetchone()[0]

    def find_events(
        self, ids: Sequence[str], columns: Sequence[str], condition: str = "true"
    ) -> dict[str, dict[str, Any]]:
        """These columns of those of the events that exist and meet the condition, by id."""
        names = ["event_id", *columns]
        query = _FIND_EVENTS.format(columns=", ".join(names), condition=condition)
        rows = self._connection.execute(query, (json.dumps(list(ids)),))
        return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in rows}

    def mark_found(self, store: str, ids: Iterable[str]) -> None:
        """Count events that a store has."""
        self._connection.executemany(
            "INSERT INTO found VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
            [(store, event_id) for event_id in ids],
        )


@contextmanager
def open_expected() -> Iterator[Expected]:
    """An empty expected state in a temporary file."""
    with tempfile.TemporaryDirectory(prefix="millrace-checker-") as folder:
        connection = sqlite3.connect(Path(folder) / "expected.sqlite", isolation_level=None)
        try:
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN")  # never committed: nobody else reads the file
            yield Expected(connection)
        finally:
            connection.close()


def load_topic(expected: Expected, settings: KafkaSettings, is_poison: IsPoison) -> None:
    """Read the whole topic of events."""
    expected.load(read_topic(settings, settings.topic), settings.topic, is_poison)


def hash_optional(data: bytes | None) -> str:
    """A digest of bytes, empty if they are absent."""
    return "" if data is None else hash_bytes(data)


class _Verdict(NamedTuple):
    """Why a message must be a dead letter, if it must; and its event, if it has one."""

    reason: str | None
    event: ExpectedEvent | None


def _judge(message: TopicMessage, topic: str, is_poison: IsPoison) -> _Verdict:
    event = read_message(message.value, message.published_at)
    if isinstance(event, str):
        return _Verdict(event, None)
    refused = is_poison(f"{topic}-{message.shard}-{message.offset}", message.value)
    return _Verdict(POISON if refused else None, event)


def _message_row(message: TopicMessage, verdict: _Verdict) -> tuple[Any, ...]:
    reason, event = verdict
    content = (None, None, None) if event is None or reason else (event.event_id, event.version, event.digest)
    hashes = (hash_optional(message.key), hash_optional(message.value))
    return message.shard, message.offset, reason, *content, message.published_at, *hashes


def _event_row(event: ExpectedEvent) -> tuple[Any, ...]:
    return *event, event.occurred_at // HOUR_MS * HOUR_MS, kind_weight(event.kind)
