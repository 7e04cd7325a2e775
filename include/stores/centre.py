"""When the centre of all texts is taken anew: one rule for every warehouse."""

from __future__ import annotations

#: Fewer texts than this say too little of where the middle is: profiles then stay as they are.
FEWEST_TEXTS = 100


def due_centre(texts: int, taken_at: int | None) -> bool:
    """Whether to take it at ``texts`` texts: first at FEWEST_TEXTS, then at every doubling, as all profiles follow."""
    return texts >= (FEWEST_TEXTS if taken_at is None else 2 * taken_at)
