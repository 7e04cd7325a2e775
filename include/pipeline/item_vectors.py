"""The text vectors of items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from include.domain import ranking
from include.domain.generation import Generation
from include.domain.identity import text_hash
from include.ports import TextVectors, UserActivity

_ITEMS_PER_READ = 10_000


def read_item_vectors(
    items: Sequence[str], activity: UserActivity, text_vectors: TextVectors, generation: Generation
) -> np.ndarray | None:
    """(items, dimension) float32: the centred vector of each item's text, zero without one; None if no item has one."""
    vectors = np.zeros((len(items), generation.dimension), dtype=np.float32)
    for start in range(0, len(items), _ITEMS_PER_READ):
        chunk = items[start : start + _ITEMS_PER_READ]
        hashes = {item: text_hash(text) for item, text in activity.read_item_texts(chunk).items()}
        stored = text_vectors.get(generation, sorted(set(hashes.values())))
        for row, item in enumerate(chunk, start=start):
            vector = stored.get(hashes.get(item, ""))
            if vector is not None:
                vectors[row] = vector
    known = vectors.any(axis=1)
    if not known.any():
        return None
    vectors[known] = ranking.subtract_centre(vectors[known], activity.refresh_text_centre(generation))
    return vectors
