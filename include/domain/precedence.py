"""Of two revisions of one event the higher (version, digest) wins, whatever the order of arrival.

The rule is written once in Python, here, and once per query language:

- SQL: ``upsert_events`` in ``include/stores/warehouse/queries.sql``
- Cypher: ``include/stores/cypher/engaged.cypher``
- MongoDB: ``_replace_older`` in ``include/sinks/mongo.py``
- SQLite: ``demo/recount.py``, which recounts the input independently, and the template of ``make new-sink``

Milvus has no conditional write: its sink reads the stored precedences and compares them here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Precedence(NamedTuple):
    """Ordered by version, then by the digest of the content."""

    version: int
    digest: str


class StoredVersion(NamedTuple):
    """What a store holds for the identity of one row of a batch. ``revised``: another revision was stored before it."""

    row: int
    precedence: Precedence
    revised: bool


def select_winners(events: pa.Table) -> pa.Table:
    """One row per event, with the revision that wins, ordered by identity. Independent of the order of ``events``,
    which has EVENT_SCHEMA.
    """
    order = [("event_id", "ascending"), ("version", "descending"), ("digest", "descending"), ("offset", "ascending")]
    ordered = events.sort_by(order)
    ids = ordered["event_id"].to_numpy()
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = ids[1:] != ids[:-1]
    return ordered.filter(pa.array(is_first))


def compare_versions(events: pa.Table, stored: Iterable[StoredVersion]) -> tuple[np.ndarray, np.ndarray]:
    """Compare a batch with what is stored: two bool arrays with one value per event.

    ``outdated``: the store holds a revision that wins. ``revises``: the store holds, or once held, one that loses.
    """
    outdated = np.zeros(events.num_rows, dtype=bool)
    revises = np.zeros(events.num_rows, dtype=bool)
    versions, digests = events["version"].to_pylist(), events["digest"].to_pylist()
    for row, precedence, revised in stored:
        incoming = Precedence(versions[row], digests[row])
        outdated[row] = precedence > incoming
        revises[row] = revised or precedence < incoming
    return outdated, revises
