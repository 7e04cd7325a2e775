"""Neo4j: the connection, its errors as ours, the statements, and the Graph port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import neo4j
import numpy as np
from neo4j import exceptions, unit_of_work

from include import errors
from include.domain.ranking import Engagements
from include.settings import Neo4jSettings

#: The longest that the server works on one transaction.
TRANSACTION_TIMEOUT_S = 30
#: How long the driver itself goes on trying after an error that passes (a deadlock, an election).
RETRY_S = 10

_USERS_PER_QUERY = 500
_FOLDER = Path(__file__).parent / "cypher"

#: Client errors that pass: another writer came first, a transaction was ended from outside or took too long.
_PASSING = ("Neo.ClientError.Schema.ConstraintValidationFailed", "Neo.ClientError.Transaction.")


def connect(settings: Neo4jSettings) -> neo4j.Driver:
    """A driver; it connects on first use. The caller closes it."""
    with translated():
        return neo4j.GraphDatabase.driver(
            settings.uri,
            auth=(settings.user, settings.password) if settings.password else None,
            connection_timeout=5,
            connection_write_timeout=TRANSACTION_TIMEOUT_S,
            connection_acquisition_timeout=15,
            max_transaction_retry_time=RETRY_S,
            notifications_min_severity="OFF",
            telemetry_disabled=True,
            user_agent="millrace",
        )


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as ours: what passes by itself is transient, and what we do not know is too."""
    try:
        yield
    except (exceptions.Neo4jError, exceptions.DriverError) as exc:
        kind = errors.PermanentError if _is_permanent(exc) else errors.TransientError
        raise kind(f"Neo4j: {exc}") from exc


def _is_permanent(exc: Exception) -> bool:
    if isinstance(exc, exceptions.ClientError):
        return not str(exc.code).startswith(_PASSING)
    return isinstance(exc, exceptions.ConfigurationError)


@cache
def statement(name: str) -> str:
    """The text of ``cypher/<name>.cypher``. Values are always parameters."""
    return (_FOLDER / f"{name}.cypher").read_text(encoding="utf-8")


def statements(name: str) -> list[str]:
    """The statements of ``cypher/<name>.cypher``, which end in semicolons."""
    return [text for text in statement(name).split(";") if text.strip()]


@unit_of_work(timeout=TRANSACTION_TIMEOUT_S)
def write(transaction: neo4j.ManagedTransaction, query: str, rows: Sequence[Any]) -> None:
    """Run ``query`` with ``$rows``; for ``execute_write``, which may run it again."""
    transaction.run(query, rows=rows).consume()


@unit_of_work(timeout=TRANSACTION_TIMEOUT_S)
def read(transaction: neo4j.ManagedTransaction, query: str, parameters: Mapping[str, Any]) -> list[neo4j.Record]:
    """The rows of ``query``; for ``execute_read``."""
    return list(transaction.run(query, dict(parameters)))


class Neo4jGraph:
    """The Graph port: who engaged with what, read from replicas where there are any."""

    def __init__(self, settings: Neo4jSettings) -> None:
        self._driver = connect(settings)
        self._database = settings.database

    def engagements(self, users: Sequence[str], limit: int) -> Engagements:
        """The latest ``limit`` items of each user, ties by id. Users without an engagement are left out."""
        collected = _Collected()
        with translated(), self._driver.session(database=self._database) as session:
            for start in range(0, len(users), _USERS_PER_QUERY):
                chunk = list(users[start : start + _USERS_PER_QUERY])
                parameters = {"users": chunk, "limit": limit}
                for row in session.execute_read(read, statement("engagements"), parameters):
                    collected.add(*row.values())
        return collected.engagements()

    def close(self) -> None:
        """Close the connections. The graph is of no use afterwards."""
        self._driver.close()


class _Collected:
    """Rows of users on their way into parallel arrays."""

    def __init__(self) -> None:
        self._users: list[str] = []
        self._lengths: list[int] = []
        self._items: dict[str, int] = {}
        self._item_index: list[int] = []
        self._at: list[int] = []
        self._weight: list[float] = []

    def add(self, user: str, items: Sequence[str], times: Sequence[int], weights: Sequence[float]) -> None:
        if not items:
            return
        self._users.append(user)
        self._lengths.append(len(items))
        known = self._items
        self._item_index.extend([known.setdefault(item, len(known)) for item in items])
        self._at.extend(times)
        self._weight.extend(weights)

    def engagements(self) -> Engagements:
        return Engagements(
            users=self._users,
            items=list(self._items),
            user_index=np.repeat(np.arange(len(self._users), dtype=np.int32), self._lengths),
            item_index=np.asarray(self._item_index, dtype=np.int32),
            at=np.asarray(self._at, dtype=np.int64),
            weight=np.asarray(self._weight, dtype=np.float64),
        )
