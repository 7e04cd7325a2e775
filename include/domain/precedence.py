"""Of two revisions of one event the higher (version, digest) wins, whatever the order of arrival.

The rule is written once in Python, here, and once per query language:

- SQL: ``upsert_events`` in ``include/stores/warehouse/queries/events.sql``
- Cypher: ``include/stores/cypher/engaged.cypher``
- SQLite: ``demo/recount.py``, which recounts the input independently, and the template of ``make new-sink``

Two sinks read the stored precedences and compare them here: Milvus has no conditional write, and MongoDB replaces a
document if it is still the one that was read.
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
    """What the warehouse stores for the identity of one row of a batch. ``revised``: it has met another content too."""

    row: int
    precedence: Precedence
    revised: bool


def select_winners(events: pa.Table) -> pa.Table:
    """One row per event, with the revision that wins, ordered by identity. Independent of the order of ``events``,
    which has EVENT_SCHEMA.

    A winner over another content ``replaces`` it: an earlier run over some of these messages may have stored the other.
    """
    order = [("event_id", "ascending"), ("version", "descending"), ("digest", "descending"), ("offset", "ascending")]
    ordered = events.sort_by(order)
    ids = ordered["event_id"].to_numpy()
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = ids[1:] != ids[:-1]
    winners = ordered.filter(pa.array(is_first))
    return mark_replacing(winners, _have_other_contents(ordered, is_first)) if not is_first.all() else winners


def _have_other_contents(ordered: pa.Table, is_first: np.ndarray) -> np.ndarray:
    """Whether the rows of each event, which begin where ``is_first``, have several contents."""
    digests = ordered["digest"].to_numpy()
    differs = np.zeros(len(digests), dtype=bool)
    differs[1:] = ~is_first[1:] & (digests[1:] != digests[:-1])
    return np.logical_or.reduceat(differs, np.flatnonzero(is_first))


def mark_replacing(events: pa.Table, rows: np.ndarray) -> pa.Table:
    """``events`` with ``replaces`` set for these rows, a bool array, besides those that have it already."""
    column = events.schema.get_field_index("replaces")
    values = pa.array(rows | events["replaces"].to_numpy())
    return events.set_column(column, events.schema.field(column), values)


def compare_versions(events: pa.Table, stored: Iterable[StoredVersion]) -> tuple[np.ndarray, np.ndarray]:
    """Compare a batch with what is stored: two bool arrays with one value per event.

    ``outdated``: the store has a revision that wins. ``revises``: it has, or has met, a different one.
    """
    outdated = np.zeros(events.num_rows, dtype=bool)
    revises = np.zeros(events.num_rows, dtype=bool)
    versions, digests = events["version"].to_pylist(), events["digest"].to_pylist()
    for row, precedence, revised in stored:
        incoming = Precedence(versions[row], digests[row])
        outdated[row] = precedence > incoming
        revises[row] = revised or precedence != incoming
    return outdated, revises
