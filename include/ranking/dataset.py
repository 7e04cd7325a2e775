"""Interactions from tables of events, with the ids behind their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.domain.ranking import kind_weight
from include.ranking.interactions import Interactions


@dataclass(frozen=True)
class Dataset:
    """``users`` and ``items``: the ids of rows and columns, sorted."""

    users: Sequence[str]
    items: Sequence[str]
    events: Interactions


def build_dataset(chunks: Iterable[pa.Table]) -> Dataset:
    """From events in any order: (user_id, item_id, kind, occurred_at in ms since 1970)."""
    tables = [chunk.select(["user_id", "item_id", "kind", "occurred_at"]) for chunk in chunks]
    if not tables:
        return Dataset([], [], empty_interactions())
    table = pa.concat_tables(tables)
    kinds = table["kind"].combine_chunks().dictionary_encode()
    weights = np.asarray([kind_weight(kind) for kind in kinds.dictionary.to_pylist()], dtype=np.float64)
    weight = weights[kinds.indices.to_numpy()] if len(weights) else np.empty(0)
    users, user = _number(table["user_id"])
    items, item = _number(table["item_id"])
    at = table["occurred_at"].cast(pa.int64()).to_numpy()
    return Dataset(users, items, Interactions(len(users), len(items), user, item, at, weight))


def empty_interactions() -> Interactions:
    """Without users, items and events."""
    none = np.empty(0, dtype=np.int32)
    return Interactions(0, 0, none, none, np.empty(0, dtype=np.int64), np.empty(0))


def _number(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The different ids, sorted, and the position of each row's id among them (int32)."""
    ids = pc.unique(column)
    ids = ids.take(pc.sort_indices(ids))
    positions = pc.index_in(column, value_set=ids).combine_chunks()
    return ids.to_pylist(), positions.to_numpy().astype(np.int32)
