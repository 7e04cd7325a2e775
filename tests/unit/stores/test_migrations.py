"""The numbered migrations of the warehouse."""

from __future__ import annotations

import hashlib
import re

from include.stores.warehouse.schema import MIGRATIONS

#: The first 16 digits of each released migration's SHA-256. Add a line with each release; never change one.
RELEASED = {"0001_tables.sql": "1788bd6bfdfbab0b"}


def test_migrations_are_numbered_without_gaps() -> None:
    """A migration's number is the schema version that it leads to."""
    names = [path.name for path in MIGRATIONS]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.sql", name) for name in names)


def test_a_released_migration_never_changes() -> None:
    """Warehouses that already have a migration would otherwise differ from new ones."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in MIGRATIONS}
    assert {name: digests.get(name) for name in RELEASED} == RELEASED
