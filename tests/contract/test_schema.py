"""The warehouse's numbered migrations, on the server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from include.errors import ConfigurationError
from include.settings import WarehouseSettings
from include.stores.postgres import Database
from include.stores.warehouse.schema import MIGRATIONS, ensure_schema
from include.stores.warehouse.warehouse import Warehouse

pytestmark = pytest.mark.servers("postgres")

_VERSIONS = "SELECT version FROM pipeline.schema_version ORDER BY version"


@pytest.fixture
def database(warehouse_dsn: str) -> Iterator[Database]:
    """An empty database."""
    with closing(Database(warehouse_dsn)) as database:
        yield database


def test_processes_that_start_together_apply_each_migration_once(warehouse_dsn: str, database: Database) -> None:
    """Several workers may meet an empty warehouse at the same time."""

    def migrate(_: int) -> None:
        with closing(Database(warehouse_dsn)) as own:
            ensure_schema(own)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, range(4)))
    assert database.query(_VERSIONS) == [(number,) for number in range(1, len(MIGRATIONS) + 1)]


def test_a_warehouse_of_an_older_version_is_migrated_with_its_rows(database: Database) -> None:
    """Events and positions from before the upgrade are still there after it."""
    database.execute(MIGRATIONS[0].read_text())
    database.execute("INSERT INTO pipeline.schema_version VALUES (1)")
    database.execute(
        "INSERT INTO pipeline.batches (topic, shard, start_offset, end_offset, mode, staged_at, committed_at)"
        " VALUES ('events', 0, 0, 7, 'live', now(), now()), ('events', 0, 7, 9, 'live', NULL, NULL)"
    )
    database.execute(
        "INSERT INTO events (user_id, message_id, event_id, kind, occurred_at, hour, version, digest, first_batch)"
        " VALUES ('u', 'm', 'e', 'view', now(), now(), 0, 'd', 'b')"
    )
    ensure_schema(database)
    assert database.query(_VERSIONS) == [(number,) for number in range(1, len(MIGRATIONS) + 1)]
    assert database.query("SELECT count(*) FROM events") == [(1,)]
    assert database.query("SELECT count(*) FROM pipeline.batches") == [(2,)]


def test_an_older_worker_refuses_a_newer_schema(warehouse_dsn: str, database: Database) -> None:
    """A worker that was not upgraded stops with a clear error and writes nothing."""
    ensure_schema(database)
    newer = len(MIGRATIONS) + 1
    database.execute("INSERT INTO pipeline.schema_version VALUES (%(version)s)", {"version": newer})
    refused = pytest.raises(ConfigurationError, match=f"schema version {newer}.*upgrade Millrace on this worker")
    with closing(Warehouse(WarehouseSettings(warehouse_dsn))) as warehouse, refused:
        warehouse.ledger.read_position("events", 0)
    assert database.query(_VERSIONS)[-1] == (newer,)
