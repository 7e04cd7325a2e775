"""A trained ranking as Arrow tables, and back: what is written to shared storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
from scipy import sparse

from include.ranking.features import POPULARITY, SOURCES, Sources, SourceSettings
from include.ranking.model import Model
from include.ranking.user_ridge import UserRidge

#: The tables of a model, by name.
NAMES = ("settings", "items", "item_weights", "walk", "users", "engaged")


@dataclass(frozen=True)
class TrainedRanking:
    """What precomputing lists needs: the model, what its sources have learned, and the ids of its users and items.

    ``generation``: the embedding model of the texts.
    """

    model: Model
    sources: Sources
    users: Sequence[str]
    items: Sequence[str]
    generation: str


class _Settings(msgspec.Struct, frozen=True):
    """``Model`` without the arrays; weights by source."""

    sources: SourceSettings
    weights: Mapping[str, float]
    short_weights: Mapping[str, float]
    as_of_ms: int
    is_split_by_time: bool
    ndcg: float
    short_ndcg: float


def encode_settings(model: Model, as_of_ms: int) -> str:
    """The settings and weights as JSON."""
    weights, short = (dict(zip(SOURCES, map(float, row), strict=True)) for row in (model.weights, model.short_weights))
    settings = _Settings(model.settings, weights, short, as_of_ms, model.is_split_by_time, model.ndcg, model.short_ndcg)
    return msgspec.json.encode(settings).decode()


def decode_settings(text: str) -> tuple[Model, int]:
    """The model, without its grid, and ``as_of_ms``. A source that it does not know weighs nothing."""
    settings = msgspec.json.decode(text, type=_Settings)
    weights, short = (
        np.array([named.get(name, 0.0) for name in SOURCES]) for named in (settings.weights, settings.short_weights)
    )
    model = Model(settings.sources, weights, short, settings.ndcg, settings.short_ndcg, [], settings.is_split_by_time)
    return model, settings.as_of_ms


def to_tables(ranking: TrainedRanking) -> dict[str, pa.Table]:
    """The tables of NAMES."""
    sources = ranking.sources
    texts = sources.texts
    settings = encode_settings(ranking.model, sources.as_of_ms)
    return {
        "settings": pa.table({"settings": [settings], "generation": [ranking.generation]}),
        "items": pa.table(
            {
                "item_id": pa.array(ranking.items, type=pa.string()),
                "vector": vector_column(texts, len(ranking.items)),
            }
        ),
        "item_weights": _from_matrix(sources.item_weights),
        "walk": _from_matrix(sources.walk),
        "users": pa.table({"user_id": pa.array(ranking.users, type=pa.string())}),
        "engaged": _from_matrix(sources.decayed),
    }


def from_tables(read: Callable[[str], pa.Table]) -> TrainedRanking:
    """``read`` returns the table of a name. Popularity and age are zero until ``Sources.renew`` sets them."""
    (row,) = read("settings").to_pylist()
    model, as_of_ms = decode_settings(row["settings"])
    item_table = read("items")
    items, users = item_table["item_id"].to_pylist(), read("users")["user_id"].to_pylist()
    shape = (len(items), len(items))
    decayed = _to_matrix(read("engaged"), (len(users), len(items)))
    chosen = model.settings
    sources = Sources(
        settings=chosen,
        used=model.used,
        as_of_ms=as_of_ms,
        item_weights=_to_matrix(read("item_weights"), shape),
        user_ridge=UserRidge.build(decayed, chosen.user_neighbours, chosen.user_strength),
        decayed=decayed,
        walk=_to_matrix(read("walk"), shape),
        popularity=np.zeros((len(items), len(POPULARITY))),
        age=np.zeros(len(items)),
        texts=read_vectors(item_table["vector"]),
    )
    return TrainedRanking(model, sources, users, items, row["generation"])


def _from_matrix(matrix: sparse.csr_array) -> pa.Table:
    coordinates = matrix.tocoo()
    return pa.table(
        {
            "row": pa.array(coordinates.row, type=pa.int32()),
            "column": pa.array(coordinates.col, type=pa.int32()),
            "value": pa.array(coordinates.data),
        }
    )


def _to_matrix(table: pa.Table, shape: tuple[int, int]) -> sparse.csr_array:
    row, column, value = (table[name].to_numpy() for name in ("row", "column", "value"))
    return sparse.csr_array((value, (row, column)), shape=shape)


def vector_column(vectors: np.ndarray | None, rows: int) -> pa.Array:
    """(rows, dimension) float32 as a column; of dimension 0 without vectors."""
    if vectors is None:
        vectors = np.zeros((rows, 0), dtype=np.float32)
    values = pa.array(vectors.ravel(), type=pa.float32())
    return pa.Array.from_buffers(pa.list_(pa.float32(), vectors.shape[1]), rows, [None], children=[values])


def read_vectors(column: pa.ChunkedArray) -> np.ndarray | None:
    """What ``vector_column`` was made from."""
    vectors = column.combine_chunks()
    size = vectors.type.list_size
    return vectors.flatten().to_numpy().reshape(-1, size) if size and len(vectors) else None
