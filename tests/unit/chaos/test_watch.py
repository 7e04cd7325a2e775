"""The threads that watch a chaos run."""

from __future__ import annotations

import threading

import pytest

from tests.chaos.watch import Poll

_PATIENCE_S = 20


def test_a_poll_is_repeated_until_the_end() -> None:
    """It is called again and again, and no more once the context is left."""
    calls: list[int] = []
    often = threading.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) == 3:
            often.set()

    with Poll("test", 0.001, call):
        assert often.wait(_PATIENCE_S)
    ended = len(calls)
    assert not any(thread.name == "test" for thread in threading.enumerate())
    assert len(calls) == ended


def test_the_error_of_a_poll_is_raised_at_the_end() -> None:
    """A watch that has failed must fail the run: what it did not see could be a violation."""
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"), Poll("test", 0.001, fail):
        assert failed.wait(_PATIENCE_S)
