"""The tables of the warehouse, as numbered migrations, and its named statements."""

from __future__ import annotations

from pathlib import Path

from include.errors import ConfigurationError
from include.stores.postgres import Database, Transaction, load_queries

_HERE = Path(__file__).parent
SQL = load_queries(_HERE / "queries")

#: ``NNNN_name.sql``, numbered from 1 without gaps. A migration that has been released never changes.
MIGRATIONS = tuple(sorted((_HERE / "migrations").glob("*.sql")))


def ensure_schema(database: Database) -> None:
    """Apply every missing migration. May run at any time and from several processes at once.

    If the schema is current this is a single read: creating an index that exists would wait for every writer. Raises
    ``ConfigurationError`` if a newer Millrace has already migrated the warehouse.
    """
    if _is_current(_read_version(database)):
        return
    # The lock outlives a transaction: one that began before the wait could not see the tables that others created.
    database.query(SQL["lock_schema"])
    try:
        _migrate(database)
    finally:
        database.query(SQL["unlock_schema"])


def _migrate(database: Database) -> None:
    with database.transaction() as transaction:
        # A migration may copy or index every event, which takes longer than an ordinary statement may.
        transaction.execute("SET LOCAL statement_timeout = 0")
        version = _find_version(transaction)
        if _is_current(version):
            return
        for number, path in enumerate(MIGRATIONS[version:], start=version + 1):
            transaction.execute(path.read_text(encoding="utf-8"))
            transaction.execute(SQL["record_migration"], {"version": number})


def _is_current(version: int) -> bool:
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"the warehouse has schema version {version}, but this installation knows only versions up to "
            f"{len(MIGRATIONS)}: upgrade Millrace on this worker, or restore a backup of the warehouse to go back"
        )
    return version == len(MIGRATIONS)


def _read_version(database: Database) -> int:
    with database.transaction() as transaction:
        return _find_version(transaction)


def _find_version(transaction: Transaction) -> int:
    """The number of the last migration, 0 for an empty database."""
    if transaction.query(SQL["find_schema"])[0][0] is None:
        return 0
    version: int = transaction.query(SQL["schema_version"])[0][0]
    return version
