"""Vectors without a model, for tests and dry runs. They are the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from include.domain.generation import Generation

#: The weight of the direction that is unique to a text, against 1 for each of its words.
_UNIQUE_WEIGHT = 0.05


class MemoryEmbedder:
    """The Embedder port by hashing: a text's vector is the sum of its words' directions, so texts with common words
    are similar, plus a small direction of its own, so no two texts have the same vector.
    """

    def __init__(self, generation: Generation | None = None) -> None:
        self._generation = generation or Generation("memory", "1", 384)

    @property
    def generation(self) -> Generation:
        return self._generation

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dimension), rows of length one, in the order of ``texts``."""
        vectors = np.zeros((len(texts), self._generation.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._vector(text)
        return vectors

    def close(self) -> None:
        """Does nothing: there is no connection to close."""

    def _vector(self, text: str) -> np.ndarray:
        vector = _UNIQUE_WEIGHT * self._direction(f"text {text}")
        for word in text.lower().split():
            vector += self._direction(f"word {word}")
        unit: np.ndarray = vector / np.linalg.norm(vector)
        return unit

    def _direction(self, name: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        direction = np.random.Generator(np.random.PCG64(seed)).standard_normal(self._generation.dimension)
        unit: np.ndarray = direction / np.linalg.norm(direction)
        return unit
