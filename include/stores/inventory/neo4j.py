"""The inventory of the relationships ENGAGED."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from include.domain.inventory import inventory_table
from include.settings import Neo4jSettings
from include.stores.neo4j import connect, load_statement, read, translate_errors

CHUNK = 5_000


class Neo4jInventory:
    """``ports.Inventory`` in pages by the index of the constraint on ``event_id``."""

    def __init__(self, settings: Neo4jSettings) -> None:
        self._driver = connect(settings)
        self._database = settings.database

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        """Every event after ``after``, in order of event id."""
        while (page := self._query("inventory", {"after": after, "limit": CHUNK})).num_rows:
            yield page
            after = page["event_id"][-1].as_py()

    def read(self, keys: pa.Table) -> pa.Table:
        """The events with these keys."""
        pages = [
            self._query("inventory_of", {"ids": keys["event_id"].slice(start, CHUNK).to_pylist()})
            for start in range(0, keys.num_rows, CHUNK)
        ]
        return pa.concat_tables(pages) if pages else inventory_table([])

    def close(self) -> None:
        """Close the connections. Do not use the inventory after closing it."""
        self._driver.close()

    def _query(self, name: str, parameters: Mapping[str, Any]) -> pa.Table:
        with translate_errors(), self._driver.session(database=self._database) as session:
            # A write transaction goes to the leader, which knows every acknowledged write.
            rows = session.execute_write(read, load_statement(name), parameters)
        return inventory_table(tuple(row.values()) for row in rows)
