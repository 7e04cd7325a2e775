"""(User)-[ENGAGED]->(Item)-[IN]->(Campaign) for each event with an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from neo4j import Session

from include.domain.batch import StagedBatch
from include.domain.ranking import kind_weight
from include.settings import Neo4jSettings
from include.stores.neo4j import connect, load_statement, load_statements, read, translate_errors, write

CHUNK = 2_000


class Neo4jSink:
    """One relationship per event, never a counter: a repeated write finds the existing one and leaves it alone.

    When a newer revision has no item, the relationship of the older one is deleted; ``replaces`` says that there may be
    one. IN relationships are never removed: see ``in.cypher``.
    """

    name = "neo4j"

    def __init__(self, settings: Neo4jSettings) -> None:
        self._driver = connect(settings)
        self._database = settings.database
        self._prepared = False

    def prepare(self) -> None:
        """Create the constraints. Idempotent; the first write of each process calls it."""
        with translate_errors(), self._session() as session:
            for query in load_statements("constraints"):
                session.execute_write(write, query, [])
        self._prepared = True

    def upsert(self, batch: StagedBatch) -> int:
        """Store the events with an item."""
        if not self._prepared:
            self.prepare()
        has_item = pc.is_valid(batch.events.column("item_id"))
        with_item = batch.events.filter(has_item)
        with translate_errors(), self._session() as session:
            # Nodes first, in separate transactions: the fewer locks a transaction takes, the rarer deadlocks are.
            _write_nodes(session, with_item)
            _write_chunks(session, "engaged", _to_rows(batch.events.filter(pc.or_(has_item, batch.events["replaces"]))))
        stored: int = with_item.num_rows
        return stored

    def delete(self, rows: pa.Table) -> int:
        """Delete the relationships of these events unless a newer revision is stored. Users and items stay."""
        values = rows.select(["event_id", "version", "digest"]).to_pylist()
        deleted = 0
        with translate_errors(), self._session() as session:
            for start in range(0, len(values), CHUNK):
                parameters = {"rows": values[start : start + CHUNK]}
                (counted,) = session.execute_write(read, load_statement("delete_engaged"), parameters)
                deleted += int(counted["deleted"])
        return deleted

    def count(self) -> int:
        """Returns the number of events that have a relationship."""
        with translate_errors(), self._session() as session:
            # A write transaction goes to the leader, which knows every acknowledged write.
            (row,) = session.execute_write(read, load_statement("count_engaged"), {})
        return int(row["events"])

    def close(self) -> None:
        """Close the connections. Do not use the sink after closing it."""
        self._driver.close()

    def _session(self) -> Session:
        return self._driver.session(database=self._database)


def _write_nodes(session: Session, events: pa.Table) -> None:
    for name, column in (("users", "user_id"), ("items", "item_id"), ("campaigns", "campaign_id")):
        _write_chunks(session, name, sorted(events.column(column).drop_null().unique().to_pylist()))
    pairs = zip(events.column("item_id").to_pylist(), events.column("campaign_id").to_pylist(), strict=True)
    _write_chunks(session, "in", sorted({(item, campaign) for item, campaign in pairs if campaign is not None}))


def _write_chunks(session: Session, name: str, rows: Sequence[Any]) -> None:
    for start in range(0, len(rows), CHUNK):
        session.execute_write(write, load_statement(name), rows[start : start + CHUNK])


def _to_rows(events: pa.Table) -> list[tuple[Any, ...]]:
    """The rows for ``engaged.cypher``, sorted by item: concurrent writers share only items, and so take their locks in
    the same order.
    """
    kinds = events.column("kind").to_pylist()
    columns = [
        events.column("event_id").to_pylist(),
        events.column("user_id").to_pylist(),
        events.column("item_id").to_pylist(),
        kinds,
        events.column("occurred_at").cast(pa.int64()).to_pylist(),
        [kind_weight(kind) for kind in kinds],
        events.column("version").to_pylist(),
        events.column("digest").to_pylist(),
    ]
    return sorted(zip(*columns, strict=True), key=lambda row: (row[2] or "", row[1]))
