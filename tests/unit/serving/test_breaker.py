"""The circuit breaker, driven by a fake clock."""

from __future__ import annotations

import pytest

from include.serving.breaker import CircuitBreaker


class Clock:
    """A clock that only moves when a test moves it."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def make_breaker(clock: Clock, jitter: float = 0.5) -> CircuitBreaker:
    """Make a breaker whose pauses are 1, 2, 4 and 8 seconds when the jitter is one half."""
    return CircuitBreaker(clock, initial_pause_s=1.0, max_pause_s=8.0, jitter=lambda: jitter)


def test_it_is_open_until_the_first_probe_succeeds() -> None:
    """Before the first connection no calls go through, and the first probe is due immediately."""
    breaker = make_breaker(Clock())
    assert (breaker.is_open, breaker.seconds_until_probe()) == (True, 0)
    breaker.record_success()
    assert (breaker.is_open, breaker.seconds_until_probe()) == (False, 0)


def test_the_first_probe_after_a_failure_is_due_immediately() -> None:
    """A connection that was merely closed can be restored without waiting."""
    breaker = make_breaker(Clock())
    breaker.record_success()
    breaker.record_failure()
    assert (breaker.is_open, breaker.seconds_until_probe()) == (True, 0)


def test_pauses_between_probes_double_up_to_a_maximum() -> None:
    """Each failed probe doubles the pause until it reaches the maximum."""
    breaker = make_breaker(Clock())
    breaker.record_success()
    pauses = []
    for _ in range(7):
        breaker.record_failure()
        pauses.append(breaker.seconds_until_probe())
    assert pauses == [0, 1, 2, 4, 8, 8, 8]


def test_a_success_resets_the_pauses() -> None:
    """After a recovery, the next failure starts with the shortest pauses again."""
    breaker = make_breaker(Clock())
    for _ in range(5):
        breaker.record_failure()
    breaker.record_success()
    breaker.record_failure()
    assert breaker.seconds_until_probe() == 0
    breaker.record_failure()
    assert breaker.seconds_until_probe() == 1


def test_the_remaining_time_shrinks_to_zero() -> None:
    """The time until the next probe shrinks as the clock advances and is never negative."""
    clock = Clock()
    breaker = make_breaker(clock)
    for _ in range(3):
        breaker.record_failure()
    assert breaker.seconds_until_probe() == 2
    clock.now += 1.5
    assert breaker.seconds_until_probe() == 0.5
    clock.now += 10
    assert breaker.seconds_until_probe() == 0


@pytest.mark.parametrize(("jitter", "pause_s"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
def test_many_readers_do_not_probe_in_lockstep(jitter: float, pause_s: float) -> None:
    """Jitter makes a pause up to a quarter shorter or longer."""
    breaker = make_breaker(Clock(), jitter)
    breaker.record_failure()
    breaker.record_failure()
    assert breaker.seconds_until_probe() == pause_s
