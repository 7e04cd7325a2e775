"""When the centre of all texts is taken anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from include.domain.centre import MIN_TEXTS, should_retake_centre


def taken(steps: list[int]) -> list[tuple[int, int | None]]:
    """(texts, taken at) after each step of so many more texts."""
    history: list[tuple[int, int | None]] = []
    texts, last = 0, None
    for more in steps:
        texts += more
        if should_retake_centre(texts, last):
            last = texts
        history.append((texts, last))
    return history


def test_the_borders() -> None:
    """First at exactly so many texts, then at exactly twice as many as last time, not one before."""
    assert not should_retake_centre(MIN_TEXTS - 1, None)
    assert should_retake_centre(MIN_TEXTS, None)
    assert not should_retake_centre(2 * MIN_TEXTS - 1, MIN_TEXTS)
    assert should_retake_centre(2 * MIN_TEXTS, MIN_TEXTS)
    assert not should_retake_centre(0, None)


@given(st.lists(st.integers(0, 1_000), max_size=60))
def test_the_centre_is_never_older_than_a_doubling(steps: list[int]) -> None:
    """However texts come in, it stands from the fewest on, and less than twice as many texts are there."""
    for texts, last in taken(steps):
        assert (last is None) == (texts < MIN_TEXTS)
        assert last is None or last <= texts < 2 * last


def test_it_is_taken_seldom() -> None:
    """A million texts one by one make every profile anew 14 times: each taking moves all of them."""
    times, texts, last = 0, 0, None
    while texts < 1_000_000:
        texts += 1
        if should_retake_centre(texts, last):
            times, last = times + 1, texts
    assert times == 14
