"""What must come out, counted from the input alone: nothing here looks at the ledger or at a store.

The lines are judged one by one and kept by identity in an SQLite file, so that memory stays flat whatever the size
of the input. Time: about 40 µs a line.
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
from include.domain.event import FUTURE_LIMIT, ID_MAX, LABEL_MAX, Event, InvalidEventError, decode
from include.domain.reasons import Reason
from include.errors import ConfigurationError

_FUTURE_LIMIT_MS = FUTURE_LIMIT.total_seconds() * 1000
_BATCH = 5_000
_TITLE = 80

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -32000;
CREATE TABLE events (
    user_id TEXT, message_id TEXT, version INTEGER, digest TEXT, has_text INTEGER, has_item INTEGER,
    occurred_at INTEGER, title TEXT, PRIMARY KEY (user_id, message_id)
) WITHOUT ROWID;
"""
_KEEP_HIGHER = """
INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, message_id) DO UPDATE SET
    version = excluded.version, digest = excluded.digest, has_text = excluded.has_text, has_item = excluded.has_item,
    occurred_at = excluded.occurred_at, title = excluded.title
WHERE (excluded.version, excluded.digest) > (version, digest)
"""
_TOTALS = "SELECT count(*), coalesce(sum(has_text), 0), coalesce(sum(has_item), 0), count(DISTINCT user_id) FROM events"
# Users with something to tell of, neither the busiest nor those who came once; plain names first.
_EXAMPLES = """
SELECT user_id FROM events GROUP BY user_id
ORDER BY user_id GLOB '*[^A-Za-z0-9_-]*', sum(has_item) < 5, sum(has_item) > 60, substr(max(digest), 1, 8), user_id
LIMIT ?
"""
_HISTORY = """
SELECT title FROM events WHERE user_id = ? AND has_item AND title <> ''
GROUP BY title ORDER BY max(has_text) DESC, max(occurred_at) DESC LIMIT ?
"""


@dataclass(frozen=True)
class Survey:
    """The input, read once: its sha256, the counts that must come out, and how many lines go to each shard."""

    fingerprint: str
    counts: Counts
    per_shard: Sequence[int]


class Recount:
    """An SQLite file with each identity of the input once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def clear(self) -> None:
        """Forget what was counted."""
        self._connection.execute("DELETE FROM events")

    def survey(self, source: Lines, shards: int, published_at: int, note: Callable[[int], None]) -> Survey:
        """Read the whole input. Raises ``ConfigurationError`` when no line of it is a valid event."""
        fingerprint, router = hashlib.sha256(), Router(shards)
        per_shard = [0] * shards
        reasons: Counter[Reason] = Counter()
        lines = _Judged(source.lines(), fingerprint, router, per_shard, reasons, published_at)
        for rows in batched(lines, _BATCH):
            self._connection.executemany(_KEEP_HIGHER, rows)
            note(sum(per_shard))
        delivered, valid = sum(per_shard), sum(per_shard) - reasons.total()
        if not valid:
            raise ConfigurationError(_nothing_valid(source, delivered, reasons))
        unique, with_text, with_item, users = self._connection.execute(_TOTALS).fetchone()
        stores = {"mongo": unique, "milvus": with_text, "neo4j": with_item, "warehouse": unique}
        dead_letters = {reason.value: reasons[reason] for reason in Reason if reasons[reason]}
        counts = Counts(delivered, unique, valid - unique, dead_letters, stores, users)
        return Survey(fingerprint.hexdigest(), counts, tuple(per_shard))

    def users(self) -> Iterator[Sequence[str]]:
        """Every user with a valid event, in chunks."""
        rows = self._connection.execute("SELECT DISTINCT user_id FROM events ORDER BY user_id")
        for chunk in batched(rows, _BATCH):
            yield [user for (user,) in chunk]

    def examples(self, limit: int) -> list[str]:
        """Users worth showing, the same ones every time."""
        return [user for (user,) in self._connection.execute(_EXAMPLES, (limit,))]

    def history(self, user_id: str, limit: int) -> list[str]:
        """The titles that this user engaged with last, the newest first."""
        return [title for (title,) in self._connection.execute(_HISTORY, (user_id, limit))]


@contextmanager
def recount(path: Path) -> Iterator[Recount]:
    """An empty recount in ``path``; the file goes with the context."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
        # One transaction to the end: nobody reads the file after us, and a commit a row costs more than the row.
        connection.execute("BEGIN")
        yield Recount(connection)
    finally:
        connection.close()
        path.unlink(missing_ok=True)


type _Row = tuple[str, str, int, str, bool, bool, int, str]


class _Judged:
    """The rows of the valid lines; what the others are is counted on the way."""

    def __init__(
        self,
        lines: Iterator[bytes],
        fingerprint: hashlib._Hash,
        router: Router,
        per_shard: list[int],
        reasons: Counter[Reason],
        published_at: int,
    ) -> None:
        self._lines = lines
        self._fingerprint = fingerprint
        self._router = router
        self._per_shard = per_shard
        self._reasons = reasons
        self._published_at = published_at

    def __iter__(self) -> Iterator[_Row]:
        for number, line in enumerate(self._lines):
            self._fingerprint.update(line)
            self._fingerprint.update(b"\n")
            self._per_shard[self._router.route(line, number).shard] += 1
            row = self._judged(line)
            if row is not None:
                yield row

    def _judged(self, line: bytes) -> _Row | None:
        try:
            event = decode(line)
        except InvalidEventError as error:
            self._reasons[error.reason] += 1
            return None
        reason = value_reason(event, self._published_at)
        if reason is not None:
            self._reasons[reason] += 1
            return None
        has_text, has_item = event.text is not None, event.item_id is not None
        title = "" if event.kind == "message" else (event.text or event.item_id or "")[:_TITLE]
        version, digest = event.precedence
        return event.user_id, event.message_id, version, digest, has_text, has_item, event.occurred_at, title


def value_reason(event: Event, published_at: int) -> Reason | None:
    """The first value rule that ``event`` fails, written down a second time on purpose: see include/validation."""
    ahead = event.occurred_at - published_at
    rules = (
        (1 <= len(event.user_id) <= ID_MAX, Reason.USER_ID_LENGTH),
        (1 <= len(event.message_id) <= ID_MAX, Reason.MESSAGE_ID_LENGTH),
        (1 <= len(event.kind) <= ID_MAX, Reason.KIND_LENGTH),
        (ahead <= _FUTURE_LIMIT_MS, Reason.OCCURRED_AT_IN_FUTURE),
        (event.item_id is None or len(event.item_id) <= LABEL_MAX, Reason.ITEM_ID_LENGTH),
        (event.campaign_id is None or len(event.campaign_id) <= LABEL_MAX, Reason.CAMPAIGN_ID_LENGTH),
        (event.text is not None or event.item_id is not None, Reason.NO_TEXT_AND_NO_ITEM),
    )
    return next((reason for holds, reason in rules if not holds), None)


def _nothing_valid(source: Lines, delivered: int, reasons: Counter[Reason]) -> str:
    if not delivered:
        return f"{source.label} is empty: it must have one JSON object a line, see README.md"
    found = ", ".join(f"{count:,} × {reason.value}" for reason, count in reasons.most_common(3))
    return f"{source.label} has no valid event in {delivered:,} lines ({found}): see README.md for what an event is"
