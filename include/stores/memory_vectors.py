"""The Profiles port in memory: exact, and as slow as that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


class MemoryProfiles:
    def __init__(self) -> None:
        self._vectors: dict[str, np.ndarray] = {}

    def put(self, users: Sequence[str], vectors: np.ndarray) -> None:
        """Store one vector a user, the last if a user comes twice."""
        self._vectors.update(zip(users, np.array(vectors, dtype=np.float32), strict=True))

    def get(self, users: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The vectors of those users who have one."""
        return {user: self._vectors[user] for user in users if user in self._vectors}

    def similar(self, vectors: np.ndarray, limit: int) -> Sequence[Sequence[tuple[str, float]]]:
        """For each vector the ``limit`` users nearest by cosine, best first; a stored vector finds itself too."""
        if not self._vectors:
            return [[] for _ in vectors]
        users = list(self._vectors)
        stored = _normalised(np.stack(list(self._vectors.values())))
        cosines = _normalised(np.asarray(vectors, dtype=np.float32)) @ stored.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :limit]
        return [[(users[i], float(cosines[row, i])) for i in order] for row, order in enumerate(best)]


def _normalised(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))
