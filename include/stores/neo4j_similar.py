"""SIMILAR relationships between items in Neo4j."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import batched

from include.settings import Neo4jSettings
from include.stores.neo4j import connect, load_statement, read, translate_errors

_CHUNK = 2_000


class Neo4jSimilarItems:
    """``ports.SimilarItems``."""

    def __init__(self, settings: Neo4jSettings) -> None:
        self._driver = connect(settings)
        self._database = settings.database

    def replace(self, version: str, rows: Sequence[tuple[str, str, float]]) -> int:
        stored = 0
        with translate_errors(), self._driver.session(database=self._database) as session:
            # New ones first: an item is never without any.
            for chunk in batched(rows, _CHUNK):
                parameters = {"rows": [list(row) for row in chunk], "version": version}
                (counted,) = session.execute_write(read, load_statement("similar"), parameters)
                stored += int(counted["rows"])
            deleted = _CHUNK
            while deleted == _CHUNK:
                others = {"version": version, "limit": _CHUNK}
                (counted,) = session.execute_write(read, load_statement("delete_similar"), others)
                deleted = int(counted["rows"])
        return stored

    def find(self, item: str, limit: int) -> Sequence[tuple[str, float]]:
        with translate_errors(), self._driver.session(database=self._database) as session:
            rows = session.execute_read(read, load_statement("similar_items"), {"item": item, "limit": limit})
        return [(row["item"], row["weight"]) for row in rows]

    def close(self) -> None:
        """Close the connections. Do not use it after closing it."""
        self._driver.close()
