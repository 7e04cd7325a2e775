"""Neo4j: the connection, error translation, the statements, and the Graph port."""

from __future__ import annotations

import logging
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

# The driver logs the message of an error that it retries, and the message may quote properties.
logging.getLogger("neo4j").setLevel(logging.CRITICAL)

#: The longest time the server may spend on one transaction.
TRANSACTION_TIMEOUT_S = 30
#: How long the driver itself retries after a transient error (a deadlock, an election).
RETRY_S = 10

_USERS_PER_QUERY = 500
_FOLDER = Path(__file__).parent / "cypher"

#: Client errors that are transient: another writer was faster, a transaction was terminated or timed out.
_TRANSIENT_CODES = ("Neo.ClientError.Schema.ConstraintValidationFailed", "Neo.ClientError.Transaction.")

#: What the values of a row alone can cause.
_REFUSALS = frozenset({"Neo.ClientError.Statement.TypeError", "Neo.ClientError.Statement.ArgumentError"})

_TOO_LONG = "too large to index"


def connect(settings: Neo4jSettings) -> neo4j.Driver:
    """A driver that connects on first use. The caller closes it."""
    with translate_errors():
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
def translate_errors() -> Iterator[None]:
    """Raise driver errors as a ``TransientError`` or ``PermanentError``; unknown ones count as transient."""
    try:
        yield
    except (exceptions.Neo4jError, exceptions.DriverError) as exc:
        kind = errors.PermanentError if _is_permanent(exc) else errors.TransientError
        if _is_refusal(exc):
            kind = errors.RefusedError
        # Its message may quote properties and parameters.
        code = getattr(exc, "code", None) or "no code"
        raise kind(f"Neo4j: {type(exc).__name__}, {code}; check neo4j_default and the server's log") from None


def _is_refusal(exc: Exception) -> bool:
    """Whether the values of a row alone are the cause. The server has no code of its own for a key that is too long."""
    return isinstance(exc, exceptions.Neo4jError) and (exc.code in _REFUSALS or _TOO_LONG in str(exc.message))


def _is_permanent(exc: Exception) -> bool:
    if isinstance(exc, exceptions.ClientError):
        return not str(exc.code).startswith(_TRANSIENT_CODES)
    return isinstance(exc, exceptions.ConfigurationError)


@cache
def load_statement(name: str) -> str:
    """The text of ``cypher/<name>.cypher``. Values are always passed as parameters."""
    return (_FOLDER / f"{name}.cypher").read_text(encoding="utf-8")


def load_statements(name: str) -> list[str]:
    """The statements of ``cypher/<name>.cypher``, which are separated by semicolons."""
    return [text for text in load_statement(name).split(";") if text.strip()]


@unit_of_work(timeout=TRANSACTION_TIMEOUT_S)
def write(transaction: neo4j.ManagedTransaction, query: str, rows: Sequence[Any]) -> None:
    """Run ``query`` with ``$rows``. For ``execute_write``, which may run it again."""
    transaction.run(query, rows=rows).consume()


@unit_of_work(timeout=TRANSACTION_TIMEOUT_S)
def read(transaction: neo4j.ManagedTransaction, query: str, parameters: Mapping[str, Any]) -> list[neo4j.Record]:
    """The rows of ``query``. For ``execute_read``."""
    return list(transaction.run(query, dict(parameters)))


class Neo4jGraph:
    """The Graph port: who engaged with what. Reads from replicas if there are any."""

    def __init__(self, settings: Neo4jSettings) -> None:
        self._driver = connect(settings)
        self._database = settings.database

    def read_engagements(self, users: Sequence[str], limit: int) -> Engagements:
        """The latest ``limit`` items of each user, ties by id. Users without an engagement are left out."""
        builder = _EngagementsBuilder()
        with translate_errors(), self._driver.session(database=self._database) as session:
            # Every transaction of a session waits for what the earlier ones saw. This one asks the leader, which has
            # every acknowledged write; without it, a replica may not have those of the batches just committed.
            session.execute_write(read, "RETURN 1", {})
            for start in range(0, len(users), _USERS_PER_QUERY):
                chunk = list(users[start : start + _USERS_PER_QUERY])
                parameters = {"users": chunk, "limit": limit}
                for row in session.execute_read(read, load_statement("engagements"), parameters):
                    builder.add(*row.values())
        return builder.build()

    def close(self) -> None:
        """Close the connections. Do not use the graph after closing it."""
        self._driver.close()


class _EngagementsBuilder:
    """Collects rows of users into parallel arrays."""

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
        index = self._items
        self._item_index.extend([index.setdefault(item, len(index)) for item in items])
        self._at.extend(times)
        self._weight.extend(weights)

    def build(self) -> Engagements:
        return Engagements(
            users=self._users,
            items=list(self._items),
            user_index=np.repeat(np.arange(len(self._users), dtype=np.int32), self._lengths),
            item_index=np.asarray(self._item_index, dtype=np.int32),
            at=np.asarray(self._at, dtype=np.int64),
            weight=np.asarray(self._weight, dtype=np.float64),
        )
