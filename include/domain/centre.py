"""When the centre of all text vectors is recomputed: one rule for every warehouse."""

from __future__ import annotations

#: Fewer texts than this say too little about the centre: profiles then stay uncentred.
MIN_TEXTS = 100


def should_retake_centre(texts: int, taken_at: int | None) -> bool:
    """Whether to recompute the centre at ``texts`` texts: first at MIN_TEXTS, then whenever the number has doubled,
    because every profile has to follow.
    """
    return texts >= (MIN_TEXTS if taken_at is None else 2 * taken_at)
