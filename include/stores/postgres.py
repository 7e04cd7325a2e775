"""The PostgreSQL driver: connections, transactions, bulk copy and error translation. Knows nothing of the tables."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

from include.errors import ConfigurationError, PermanentError, RefusedError, TransientError

if TYPE_CHECKING:
    import pyarrow as pa

_SESSION = (
    "-c timezone=UTC -c statement_timeout=300000 -c lock_timeout=60000 -c idle_in_transaction_session_timeout=120000"
)
_ACCESS_DENIED = ("password authentication failed", "no pg_hba.conf entry", "does not exist")
#: What libpq says about a connection, without the server and the login that it also names.
_CAUSES = (
    *_ACCESS_DENIED,
    "Connection refused",
    "could not translate host name",
    "timeout expired",
    "SSL",
    "server closed the connection unexpectedly",
    "connection already closed",
)
#: What a row alone can cause: a value out of range or not encodable, a check that fails, a key that is too long.
_REFUSALS = (psycopg2.DataError, psycopg2.errors.CheckViolation, psycopg2.errors.ProgramLimitExceeded)
#: The names in PostgreSQL's report of an error that come from the schema. Its message, detail and context quote rows.
_SCHEMA_NAMES = ("table", "column", "constraint")

type Parameters = Mapping[str, object]


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise driver errors as a ``TransientError`` or ``PermanentError``."""
    try:
        yield
    except _REFUSALS as error:
        raise RefusedError(f"the warehouse refuses a value: {_describe(error)}") from None
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        if any(part in str(error) for part in _ACCESS_DENIED):
            raise ConfigurationError(
                f"the warehouse denies access: check warehouse_default: {_describe(error)}"
            ) from None
        raise TransientError(f"the warehouse is unavailable: {_describe(error)}") from None
    except psycopg2.Error as error:
        raise PermanentError(f"the warehouse rejected a statement: {_describe(error)}") from None


def _describe(error: psycopg2.Error) -> str:
    """The class, the SQLSTATE or the cause of a lost connection, and the names of what was violated."""
    if isinstance(error, psycopg2.InterfaceError) and isinstance(error.__context__, psycopg2.Error):
        # It only says that a connection that was lost cannot be rolled back; its context says why it was lost.
        error = error.__context__
    names = ((name, getattr(error.diag, f"{name}_name")) for name in _SCHEMA_NAMES)
    details = [
        f"SQLSTATE {error.pgcode}" if error.pgcode else "",
        next((cause for cause in _CAUSES if not error.pgcode and cause in str(error)), ""),
        *(f"{name} {value}" for name, value in names if value),
    ]
    return ", ".join([type(error).__name__, *filter(None, details)])


def load_queries(folder: Path) -> dict[str, str]:
    """The statements of a folder's .sql files, by the name in the ``-- name:`` line above each."""
    queries: dict[str, str] = {}
    for path in sorted(folder.glob("*.sql")):
        for block in path.read_text(encoding="utf-8").split("-- name: ")[1:]:
            name, _, statement = block.partition("\n")
            queries[name.strip()] = statement.strip()
    return queries


class Transaction:
    """Statements that succeed or fail together."""

    def __init__(self, cursor: psycopg2.extensions.cursor) -> None:
        self._cursor = cursor

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        """Run one statement. Returns the number of affected rows."""
        self._cursor.execute(statement, parameters)
        affected: int = self._cursor.rowcount
        return affected

    def query(self, statement: str, parameters: Parameters | None = None) -> list[tuple[Any, ...]]:
        """Every row of a query."""
        self._cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def stream(self, statement: str, parameters: Parameters, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query from a cursor of the server, in chunks of ``rows``."""
        with self._cursor.connection.cursor("millrace") as cursor:
            cursor.execute(statement, parameters)
            while chunk := cursor.fetchmany(rows):
                yield chunk

    def execute_values(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run ``statement`` with its single ``%s`` replaced by many rows of values."""
        psycopg2.extras.execute_values(self._cursor, statement, rows, page_size=500)

    def copy(self, table: str, rows: pa.Table) -> None:
        """Append ``rows`` to the columns of ``table`` with the same names. Null stays null, '' stays ''."""
        import pyarrow.csv as arrow_csv  # here, because the triggerer uses this module too and copies nothing

        buffer = io.BytesIO()
        arrow_csv.write_csv(rows, buffer, arrow_csv.WriteOptions(include_header=False, quoting_style="needed"))
        buffer.seek(0)
        columns = ", ".join(f'"{name}"' for name in rows.column_names)
        self._cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN WITH (FORMAT csv)", buffer)


class Database:
    """One connection, opened on first use and reopened after it broke. Not thread-safe."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg2.extensions.connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commits at the end, rolls back on any error. Raises TransientError or PermanentError."""
        with translate_errors():
            connection = self._open()
            try:
                with connection, connection.cursor() as cursor:
                    yield Transaction(cursor)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                self.close()
                raise

    def query(self, statement: str, parameters: Parameters | None = None) -> list[tuple[Any, ...]]:
        """Every row of one query, in its own transaction."""
        with self.transaction() as transaction:
            return transaction.query(statement, parameters)

    def stream(self, statement: str, parameters: Parameters, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of one query in chunks of ``rows``, in a transaction without time limits that ends with the last."""
        with self.transaction() as transaction:
            transaction.execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
            yield from transaction.stream(statement, parameters, rows)

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        """Run one statement in its own transaction. Returns the number of affected rows."""
        with self.transaction() as transaction:
            return transaction.execute(statement, parameters)

    def close(self) -> None:
        """Close the connection; the next statement opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> psycopg2.extensions.connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(
                self._dsn,
                connect_timeout=5,
                options=_SESSION,
                application_name="millrace",
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
            )
        return self._connection
