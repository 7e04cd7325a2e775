"""When the centre of all text vectors is recomputed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from include.domain.centre import MIN_TEXTS, should_recompute_centre


def simulate(steps: list[int]) -> list[tuple[int, int | None]]:
    """Add the given numbers of texts. Returns (texts, texts at the last recomputation) after each step."""
    history: list[tuple[int, int | None]] = []
    texts, last = 0, None
    for more in steps:
        texts += more
        if should_recompute_centre(texts, last):
            last = texts
        history.append((texts, last))
    return history


def test_the_thresholds_are_exact() -> None:
    """The centre is first computed at exactly MIN_TEXTS texts, and again at exactly twice the last number."""
    assert not should_recompute_centre(MIN_TEXTS - 1, None)
    assert should_recompute_centre(MIN_TEXTS, None)
    assert not should_recompute_centre(2 * MIN_TEXTS - 1, MIN_TEXTS)
    assert should_recompute_centre(2 * MIN_TEXTS, MIN_TEXTS)
    assert not should_recompute_centre(0, None)


@given(st.lists(st.integers(0, 1_000), max_size=60))
def test_the_centre_is_never_older_than_a_doubling(steps: list[int]) -> None:
    """From MIN_TEXTS on there is a centre, and the number of texts has not doubled since it was computed."""
    for texts, last in simulate(steps):
        assert (last is None) == (texts < MIN_TEXTS)
        assert last is None or last <= texts < 2 * last


def test_the_centre_is_rarely_recomputed() -> None:
    """Growing to a million texts recomputes the centre, and with it every profile, only 14 times."""
    recomputed, texts, last = 0, 0, None
    while texts < 1_000_000:
        texts += 1
        if should_recompute_centre(texts, last):
            recomputed, last = recomputed + 1, texts
    assert recomputed == 14
