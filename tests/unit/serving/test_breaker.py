"""The circuit breaker, by a clock of the test's own."""

from __future__ import annotations

import pytest

from include.serving.breaker import Breaker


class Clock:
    """Seconds, moved by hand."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, jitter: float = 0.5) -> Breaker:
    """One whose pauses are 1, 2, 4 and 8 seconds where the jitter is one half."""
    return Breaker(clock, first_s=1.0, most_s=8.0, jitter=lambda: jitter)


def test_it_is_open_until_the_first_probe_succeeds() -> None:
    """Nothing is asked of a store that was never reached, and the first probe is due at once."""
    made = breaker(Clock())
    assert (made.is_open, made.wait_s()) == (True, 0)
    made.succeeded()
    assert (made.is_open, made.wait_s()) == (False, 0)


def test_the_first_probe_after_a_failure_is_due_at_once() -> None:
    """A connection that was only closed need not be waited for."""
    made = breaker(Clock())
    made.succeeded()
    made.failed()
    assert (made.is_open, made.wait_s()) == (True, 0)


def test_probes_are_ever_further_apart_up_to_a_bound() -> None:
    """Each failed probe doubles the pause, until it is as long as it gets."""
    made = breaker(Clock())
    made.succeeded()
    pauses = []
    for _ in range(7):
        made.failed()
        pauses.append(made.wait_s())
    assert pauses == [0, 1, 2, 4, 8, 8, 8]


def test_a_success_forgets_the_pauses() -> None:
    """After a recovery the next failure begins anew."""
    made = breaker(Clock())
    for _ in range(5):
        made.failed()
    made.succeeded()
    made.failed()
    assert made.wait_s() == 0
    made.failed()
    assert made.wait_s() == 1


def test_waiting_is_over_in_time() -> None:
    """The wait shrinks as time passes, and is never less than none."""
    clock = Clock()
    made = breaker(clock)
    for _ in range(3):
        made.failed()
    assert made.wait_s() == 2
    clock.now += 1.5
    assert made.wait_s() == 0.5
    clock.now += 10
    assert made.wait_s() == 0


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
def test_many_readers_do_not_probe_in_step(jitter: float, wait: float) -> None:
    """A pause is up to a quarter shorter or longer, by chance."""
    made = breaker(Clock(), jitter)
    made.failed()
    made.failed()
    assert made.wait_s() == wait
