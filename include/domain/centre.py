"""When the centre of all text vectors is recomputed: one rule for every warehouse."""

from __future__ import annotations

#: Fewer texts than this do not give a representative centre: profiles then stay uncentred.
MIN_TEXTS = 100


def should_recompute_centre(texts: int, last_texts: int | None) -> bool:
    """Whether to recompute the centre, given the number of texts now and at the last time.

    It is first computed at MIN_TEXTS, then only when the number has doubled, because every profile has to follow it.
    """
    return texts >= (MIN_TEXTS if last_texts is None else 2 * last_texts)
