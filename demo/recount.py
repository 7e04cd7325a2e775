"""Work out the expected counts from the input alone, without looking at the ledger or any store.

Valid events go into an SQLite file by identity, so memory use does not grow with the input. About 20 µs per line.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import batched
from pathlib import Path

from demo.reconcile import Counts
from demo.routing import Router
from demo.source import Lines
from include.bootstrap import SINKS
from include.domain.event import FUTURE_LIMIT, ID_MAX, LABEL_MAX, Event, InvalidEventError, decode
from include.domain.reasons import Reason
from include.errors import ConfigurationError
from stack.credentials import write_private

_FUTURE_LIMIT_MS = FUTURE_LIMIT.total_seconds() * 1000
_CHUNK_SIZE = 5_000
_TITLE_LENGTH = 80

#: The fields that some store requires; the queries below always need the first two.
_REQUIRED_FIELDS = tuple(dict.fromkeys(["text", "item_id", *(spec.needs for spec in SINKS.values() if spec.needs)]))
_FLAGS = [f"has_{name}" for name in _REQUIRED_FIELDS]

_SCHEMA = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -32000;
CREATE TABLE events (
    user_id TEXT, message_id TEXT, version INTEGER, digest TEXT, occurred_at INTEGER, title TEXT, {", ".join(_FLAGS)},
    PRIMARY KEY (user_id, message_id)
) WITHOUT ROWID;
"""
# The rule "the higher (version, digest) wins", written a second time on purpose: see include/domain/precedence.py.
_UPSERT = f"""
INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, {", ".join("?" for _ in _FLAGS)})
ON CONFLICT (user_id, message_id) DO UPDATE SET
    version = excluded.version, digest = excluded.digest, occurred_at = excluded.occurred_at, title = excluded.title,
    {", ".join(f"{flag} = excluded.{flag}" for flag in _FLAGS)}
WHERE (excluded.version, excluded.digest) > (version, digest)
"""  # noqa: S608 (only the names in _FLAGS are inserted)
_SUMS = ", ".join(f"sum({flag})" for flag in _FLAGS)
_TOTALS = f"SELECT count(*), count(DISTINCT user_id), {_SUMS} FROM events"  # noqa: S608 (as above)
# Prefer users with plain names, then those with a moderate number of items: neither the busiest nor one-off visitors.
_EXAMPLE_USERS = """
SELECT user_id FROM events GROUP BY user_id
ORDER BY
    user_id GLOB '*[^A-Za-z0-9_-]*', sum(has_item_id) < 5, sum(has_item_id) > 60, substr(max(digest), 1, 8), user_id
LIMIT ?
"""
_HISTORY = """
SELECT title FROM events WHERE user_id = ? AND has_item_id AND title <> ''
GROUP BY title ORDER BY max(has_text) DESC, max(occurred_at) DESC LIMIT ?
"""


@dataclass(frozen=True)
class InputSummary:
    """The sha256 of the input, the expected counts, and the number of lines per shard."""

    fingerprint: str
    expected: Counts
    lines_per_shard: Sequence[int]


class InputEvents:
    """The valid events of the input in an SQLite file, one row per identity."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def clear(self) -> None:
        """Delete all events."""
        self._connection.execute("DELETE FROM events")

    def load(self, source: Lines, shards: int, published_at: int, on_progress: Callable[[int], None]) -> InputSummary:
        """Read the whole input. Raises ``ConfigurationError`` if it has no valid event."""
        reader = _InputReader(source, shards, published_at)
        for rows in batched(reader.rows(), _CHUNK_SIZE):
            self._connection.executemany(_UPSERT, rows)
            on_progress(reader.line_count)
        delivered, valid = reader.line_count, reader.line_count - reader.reasons.total()
        if not valid:
            raise ConfigurationError(_describe_invalid_input(source, delivered, reader.reasons))
        unique, users, *with_field = self._connection.execute(_TOTALS).fetchone()
        counts_by_field = dict(zip(_REQUIRED_FIELDS, with_field, strict=True))
        stores = {name: counts_by_field[spec.needs] if spec.needs else unique for name, spec in SINKS.items()}
        dead_letters = {reason.value: reader.reasons[reason] for reason in Reason if reader.reasons[reason]}
        counts = Counts(delivered, unique, valid - unique, dead_letters, stores, users)
        return InputSummary(reader.fingerprint.hexdigest(), counts, tuple(reader.lines_per_shard))

    def read_users(self) -> Iterator[Sequence[str]]:
        """Yield every user with a valid event, in chunks."""
        rows = self._connection.execute("SELECT DISTINCT user_id FROM events ORDER BY user_id")
        for chunk in batched(rows, _CHUNK_SIZE):
            yield [user for (user,) in chunk]

    def choose_example_users(self, limit: int) -> list[str]:
        """Returns users that make good examples, the same ones every time."""
        return [user for (user,) in self._connection.execute(_EXAMPLE_USERS, (limit,))]

    def read_history(self, user_id: str, limit: int) -> list[str]:
        """Returns the titles that this user engaged with most recently, newest first."""
        return [title for (title,) in self._connection.execute(_HISTORY, (user_id, limit))]


@contextmanager
def open_input_events(path: Path) -> Iterator[InputEvents]:
    """Open an empty store in ``path``, readable only by its owner; the file is deleted on exit."""
    write_private(path, "")
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
        # One transaction that is never committed: nobody reads the file afterwards, and commits cost more than rows.
        connection.execute("BEGIN")
        yield InputEvents(connection)
    finally:
        connection.close()
        path.unlink(missing_ok=True)


type _Row = tuple[object, ...]


class _InputReader:
    """Reads the input once: yields a row per valid line, and counts lines per shard and invalid lines by reason."""

    def __init__(self, source: Lines, shards: int, published_at: int) -> None:
        self.fingerprint = hashlib.sha256()
        self.lines_per_shard = [0] * shards
        self.reasons: Counter[Reason] = Counter()
        self._source = source
        self._router = Router(shards)
        self._published_at = published_at

    @property
    def line_count(self) -> int:
        return sum(self.lines_per_shard)

    def rows(self) -> Iterator[_Row]:
        for number, line in enumerate(self._source.lines()):
            self.fingerprint.update(line)
            self.fingerprint.update(b"\n")
            self.lines_per_shard[self._router.route(line, number).shard] += 1
            try:
                event = decode(line)
            except InvalidEventError as error:
                self.reasons[error.reason] += 1
                continue
            reason = find_broken_rule(event, self._published_at)
            if reason is not None:
                self.reasons[reason] += 1
                continue
            yield _to_row(event)


def _to_row(event: Event) -> _Row:
    title = "" if event.kind == "message" else (event.text or event.item_id or "")[:_TITLE_LENGTH]
    version, digest = event.precedence
    flags = [getattr(event, name) is not None for name in _REQUIRED_FIELDS]
    return event.user_id, event.message_id, version, digest, event.occurred_at, title, *flags


def find_broken_rule(event: Event, published_at: int) -> Reason | None:
    """Returns the first value rule that ``event`` breaks.

    These rules are a deliberate second implementation of those in include/validation, so that the two check each other.
    """
    ahead = event.occurred_at - published_at
    rules = (
        (1 <= len(event.user_id) <= ID_MAX, Reason.USER_ID_LENGTH),
        (1 <= len(event.message_id) <= ID_MAX, Reason.MESSAGE_ID_LENGTH),
        (1 <= len(event.kind) <= ID_MAX, Reason.KIND_LENGTH),
        (published_at >= 0, Reason.PUBLISHED_AT_MISSING),
        (ahead <= _FUTURE_LIMIT_MS, Reason.OCCURRED_AT_IN_FUTURE),
        (event.item_id is None or len(event.item_id) <= LABEL_MAX, Reason.ITEM_ID_LENGTH),
        (event.campaign_id is None or len(event.campaign_id) <= LABEL_MAX, Reason.CAMPAIGN_ID_LENGTH),
        (event.text is not None or event.item_id is not None, Reason.NO_TEXT_AND_NO_ITEM),
    )
    return next((reason for passes, reason in rules if not passes), None)


def _describe_invalid_input(source: Lines, delivered: int, reasons: Counter[Reason]) -> str:
    if not delivered:
        return f"{source.label} is empty: it must have one JSON object per line, see docs/events.md"
    top = ", ".join(f"{count:,} × {reason.value}" for reason, count in reasons.most_common(3))
    return f"{source.label} has no valid events in {delivered:,} lines ({top}): see docs/events.md for the event format"
