"""The warehouse's tables and named statements."""

from __future__ import annotations

from pathlib import Path

from include.stores.postgres import Database, load_queries

_HERE = Path(__file__).parent
SQL = load_queries(_HERE / "queries.sql")


#: Raise it with every change of schema.sql.
_VERSION = 1


def ensure_schema(database: Database) -> None:
    """Make every table that is missing. May run at any time and from several processes at once.

    Where the schema stands already this is one read: making an index that is there would wait for every writer.
    """
    if _version(database) == _VERSION:
        return
    with database.transaction() as transaction:
        transaction.run("SELECT pg_advisory_xact_lock(hashtextextended('millrace schema', 0))")
        transaction.run((_HERE / "schema.sql").read_text())
        transaction.run("DELETE FROM pipeline.schema_version")
        transaction.run("INSERT INTO pipeline.schema_version VALUES (%(version)s)", {"version": _VERSION})


def _version(database: Database) -> int | None:
    if database.rows("SELECT to_regclass('pipeline.schema_version')")[0][0] is None:
        return None
    rows = database.rows("SELECT version FROM pipeline.schema_version")
    return rows[0][0] if rows else None
