"""Which errors Airflow retries: evaluates the retry policy as a task runner does."""

from __future__ import annotations

import inspect

import pytest
from airflow.sdk import RetryAction

from dag_factories.policy import DEFAULT_ARGS, RETRY_POLICY
from include import errors
from include.errors import MillraceError, PermanentError, TransientError, UnexpectedError

MILLRACE_ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MillraceError)]
PERMANENT = [kind for kind in MILLRACE_ERRORS if issubclass(kind, PermanentError)]
TRANSIENT = [kind for kind in MILLRACE_ERRORS if issubclass(kind, TransientError)]


class UnreachableError(TransientError):
    """A class that an adapter might derive."""


def decide(error: Exception, tries: int = 1) -> RetryAction:
    return RETRY_POLICY.evaluate(error, tries, DEFAULT_ARGS["retries"]).action


def test_every_error_is_either_transient_or_permanent() -> None:
    """Every error class is transient or permanent, none is both; only the base class and a bug's class are neither."""
    neither = [kind for kind in MILLRACE_ERRORS if kind not in PERMANENT and kind not in TRANSIENT]
    assert neither == [MillraceError, UnexpectedError]
    assert not set(PERMANENT) & set(TRANSIENT)
    names = {kind.__name__ for kind in PERMANENT}
    assert names >= {"PermanentError", "ConfigurationError", "OffsetsGoneError", "StagedBatchMissingError"}


@pytest.mark.parametrize("kind", PERMANENT)
def test_permanent_errors_fail_at_once(kind: type[PermanentError]) -> None:
    """A permanent error, or a class derived from it, fails on the first try although every retry is left."""
    assert decide(kind("wrong"), tries=1) is RetryAction.FAIL
    derived = type("DerivedError", (kind,), {})
    assert decide(derived("wrong")) is RetryAction.FAIL


@pytest.mark.parametrize("kind", [*TRANSIENT, UnreachableError])
def test_transient_errors_are_retried(kind: type[TransientError]) -> None:
    """A transient error, or a class derived from it, is retried after every try."""
    for tries in (1, DEFAULT_ARGS["retries"]):
        assert decide(kind("unavailable"), tries) is RetryAction.RETRY


@pytest.mark.parametrize("error", [ValueError("a bug"), UnexpectedError("a bug"), MillraceError("?"), MemoryError()])
def test_any_other_error_gets_the_ordinary_retries(error: Exception) -> None:
    """The policy leaves an error that is neither transient nor permanent to Airflow."""
    assert decide(error) is RetryAction.DEFAULT


def test_the_class_of_an_error_decides_not_its_cause() -> None:
    """A permanent error fails even if a transient error caused it."""
    try:
        try:
            raise TransientError("unavailable")
        except TransientError as cause:
            raise PermanentError("wrong") from cause
    except PermanentError as error:
        assert decide(error) is RetryAction.FAIL


def test_retries_last_about_half_an_hour() -> None:
    """The pauses between the retries, each capped by the longest allowed, add up to 20 to 40 minutes."""
    pause, total = DEFAULT_ARGS["retry_delay"].total_seconds(), 0.0
    longest = DEFAULT_ARGS["max_retry_delay"].total_seconds()
    for _ in range(DEFAULT_ARGS["retries"]):
        total += min(pause, longest)
        pause *= DEFAULT_ARGS["retry_exponential_backoff"]
    assert 20 * 60 <= total <= 40 * 60
