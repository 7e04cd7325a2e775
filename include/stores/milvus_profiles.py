"""The Profiles port on Milvus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from include.domain.generation import Generation
from include.settings import MilvusSettings
from include.stores.milvus import STRONG, TIMEOUT_S, VectorCollection, any_of, connect, translated

_USERS_PER_QUERY = 2_000
_VECTORS_PER_SEARCH = 500
#: How many candidates HNSW keeps at least: below about this many the recall of 50 neighbours falls under .99.
_LEAST_EF = 128


class MilvusProfiles:
    """One vector a user, of one generation, in an HNSW index: few rows, searched often."""

    def __init__(self, settings: MilvusSettings, generation: Generation) -> None:
        self._client = connect(settings)
        self._vectors = VectorCollection(
            settings.profile_collection, generation.name, generation.dimension, "HNSW", fields={}
        )
        self._prepared = False

    def prepare(self) -> None:
        """Make and load the collection. May run again; the first call of each process does it by itself."""
        with translated():
            self._vectors.prepare(self._client)
        self._prepared = True

    def activate(self) -> None:
        """Point the alias of the profiles at this generation."""
        self._ready()
        with translated():
            self._vectors.activate(self._client)

    def put(self, users: Sequence[str], vectors: np.ndarray) -> None:
        """Store one vector a user, the last if a user comes twice. Zero vectors have no direction: never put one."""
        self._ready()
        last = dict(zip(users, np.asarray(vectors, dtype=np.float32), strict=True))
        with translated():
            self._vectors.upsert(self._client, [{"id": user, "vector": vector} for user, vector in last.items()])

    def get(self, users: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The vectors of those users who have one."""
        self._ready()
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(users), _USERS_PER_QUERY):
            with translated():
                rows = self._client.query(
                    self._vectors.name,
                    filter=any_of("id", users[start : start + _USERS_PER_QUERY]),
                    output_fields=["id", "vector"],
                    consistency_level=STRONG,
                    timeout=TIMEOUT_S,
                )
            found.update({row["id"]: np.asarray(row["vector"], dtype=np.float32) for row in rows})
        return found

    def similar(self, vectors: np.ndarray, limit: int) -> Sequence[Sequence[tuple[str, float]]]:
        """For each vector the ``limit`` users nearest by cosine, best first; a stored vector finds itself too."""
        self._ready()
        queries = np.asarray(vectors, dtype=np.float32)
        answers: list[list[tuple[str, float]]] = []
        for start in range(0, len(queries), _VECTORS_PER_SEARCH):
            with translated():
                hits = self._client.search(
                    self._vectors.name,
                    data=list(queries[start : start + _VECTORS_PER_SEARCH]),
                    limit=limit,
                    search_params={"metric_type": "COSINE", "params": {"ef": max(2 * limit, _LEAST_EF)}},
                    consistency_level=STRONG,
                    timeout=TIMEOUT_S,
                )
                answers.extend([(hit["id"], hit["distance"]) for hit in row] for row in hits)
        return answers

    def close(self) -> None:
        """Close the connection. The profiles are of no use afterwards."""
        self._client.close()

    def _ready(self) -> None:
        if not self._prepared:
            self.prepare()
