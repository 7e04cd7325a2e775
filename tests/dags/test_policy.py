"""Which errors Airflow tries again: Airflow's own policy, asked as a task runner asks it."""

from __future__ import annotations

import inspect

import pytest
from airflow.sdk import RetryAction

from dag_factories.policy import DEFAULT_ARGS, RETRY_POLICY
from include import errors
from include.errors import MillraceError, PermanentError, TransientError

OURS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MillraceError)]
PERMANENT = [kind for kind in OURS if issubclass(kind, PermanentError)]
TRANSIENT = [kind for kind in OURS if issubclass(kind, TransientError)]


class FarAwayError(TransientError):
    """What an adapter might derive."""


def action(error: Exception, tries: int = 1) -> RetryAction:
    return RETRY_POLICY.evaluate(error, tries, DEFAULT_ARGS["retries"]).action


def test_every_error_of_ours_has_one_mark() -> None:
    """Each says whether it may pass, and none says both; the root alone says neither."""
    assert [kind for kind in OURS if kind not in PERMANENT and kind not in TRANSIENT] == [MillraceError]
    assert not set(PERMANENT) & set(TRANSIENT)
    names = {kind.__name__ for kind in PERMANENT}
    assert names >= {"PermanentError", "ConfigurationError", "OffsetsGoneError", "StagedBatchMissingError"}


@pytest.mark.parametrize("kind", PERMANENT)
def test_what_will_not_pass_fails_at_once(kind: type[PermanentError]) -> None:
    """Also on the first try, with every retry left, and whatever is derived from it."""
    assert action(kind("wrong"), tries=1) is RetryAction.FAIL
    derived = type("DerivedError", (kind,), {})
    assert action(derived("wrong")) is RetryAction.FAIL


@pytest.mark.parametrize("kind", [*TRANSIENT, FarAwayError])
def test_what_may_pass_is_tried_again(kind: type[TransientError]) -> None:
    """On every try, and whatever is derived from it."""
    for tries in (1, DEFAULT_ARGS["retries"]):
        assert action(kind("away"), tries) is RetryAction.RETRY


@pytest.mark.parametrize("error", [ValueError("a bug"), MillraceError("no mark"), OSError("?"), MemoryError()])
def test_anything_else_gets_the_ordinary_retries(error: Exception) -> None:
    """What says nothing of itself is left to Airflow."""
    assert action(error) is RetryAction.DEFAULT


def test_the_mark_counts_not_the_cause() -> None:
    """An adapter's error decides, whatever error of the driver it was made from."""
    try:
        try:
            raise TransientError("away")
        except TransientError as cause:
            raise PermanentError("wrong") from cause
    except PermanentError as error:
        assert action(error) is RetryAction.FAIL


def test_an_outage_is_waited_for_about_half_an_hour() -> None:
    """All pauses together are 20 to 40 minutes, and none is longer than the longest allowed."""
    pause, total = DEFAULT_ARGS["retry_delay"].total_seconds(), 0.0
    longest = DEFAULT_ARGS["max_retry_delay"].total_seconds()
    for _ in range(DEFAULT_ARGS["retries"]):
        total += min(pause, longest)
        pause *= DEFAULT_ARGS["retry_exponential_backoff"]
    assert 20 * 60 <= total <= 40 * 60
