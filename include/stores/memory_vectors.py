"""The Profiles port in memory: exact, and therefore slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


class MemoryProfiles:
    """``ports.Profiles``."""

    def __init__(self) -> None:
        self._vectors: dict[str, np.ndarray] = {}

    def put(self, users: Sequence[str], vectors: np.ndarray) -> None:
        """Store one vector per user, the last one if a user occurs twice."""
        self._vectors.update(zip(users, np.array(vectors, dtype=np.float32), strict=True))

    def delete(self, users: Sequence[str]) -> None:
        """Delete the vectors of these users; a user without one changes nothing."""
        for user in users:
            self._vectors.pop(user, None)

    def get(self, users: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The vectors of the users who have one."""
        return {user: self._vectors[user] for user in users if user in self._vectors}

    def search(self, vectors: np.ndarray, limit: int) -> Sequence[Sequence[tuple[str, float]]]:
        """For each vector the ``limit`` nearest users by cosine, best first; a stored vector also finds itself."""
        if not self._vectors:
            return [[] for _ in vectors]
        users = list(self._vectors)
        stored = _normalise(np.stack(list(self._vectors.values())))
        cosines = _normalise(np.asarray(vectors, dtype=np.float32)) @ stored.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :limit]
        return [[(users[i], float(cosines[row, i])) for i in order] for row, order in enumerate(best)]

    def close(self) -> None:
        """Nothing to close."""


def _normalise(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))
