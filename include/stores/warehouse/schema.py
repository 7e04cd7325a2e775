"""The tables and named statements of the warehouse."""

from __future__ import annotations

from pathlib import Path

from include.stores.postgres import Database, load_queries

_HERE = Path(__file__).parent
SQL = load_queries(_HERE / "queries.sql")


#: Increase it with every change to schema.sql.
_VERSION = 1


def ensure_schema(database: Database) -> None:
    """Create every missing table. May run at any time and from several processes at once.

    If the schema is current this is a single read: creating an index that exists would wait for every writer.
    """
    if _read_version(database) == _VERSION:
        return
    with database.transaction() as transaction:
        transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('millrace schema', 0))")
        transaction.execute((_HERE / "schema.sql").read_text())
        transaction.execute("DELETE FROM pipeline.schema_version")
        transaction.execute("INSERT INTO pipeline.schema_version VALUES (%(version)s)", {"version": _VERSION})


def _read_version(database: Database) -> int | None:
    if database.query("SELECT to_regclass('pipeline.schema_version')")[0][0] is None:
        return None
    rows = database.query("SELECT version FROM pipeline.schema_version")
    return rows[0][0] if rows else None
