"""What a task's log shows of an exception, formatted by Airflow's own processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from include.errors import MillraceError, TransientError, UnexpectedError, hide_values, without_values
from tests.canary import CANARY


def write_log(error: BaseException) -> str:
    """The line that Airflow writes into the log of a task that failed with ``error``."""
    from airflow.sdk._shared.logging.structlog import structlog_processors

    processors, _, to_line = structlog_processors(json_output=True)
    event: Any = {"event": "Task failed with exception", "exc_info": error}
    for processor in processors:
        event = processor(None, "error", event)
    line: str | bytes = to_line(None, "error", event)
    return line.decode() if isinstance(line, bytes) else line


def parse_value(text: str) -> float:
    return float(text)


def store(text: str) -> None:
    """Like an adapter that translates a driver's error."""
    try:
        parse_value(text)
    except ValueError:
        raise TransientError("the server is unavailable") from None


def store_carelessly(text: str) -> None:
    """Like an adapter that chains a driver's error."""
    try:
        parse_value(text)
    except ValueError as error:
        raise TransientError("the server is unavailable") from error


def catch(call: Callable[[str], object]) -> BaseException:
    with pytest.raises((ValueError, MillraceError)) as caught:
        call(CANARY)
    return caught.value


@pytest.mark.parametrize("call", [parse_value, store_carelessly])
def test_airflow_logs_the_message_of_every_error_in_the_chain(call: Callable[[str], object]) -> None:
    """The reason for all of this: without ``hide_values`` a task's log quotes the value."""
    assert CANARY in write_log(catch(call))


@pytest.mark.parametrize("call", [parse_value, store, store_carelessly])
def test_a_task_logs_no_value(call: Callable[[str], object]) -> None:
    """With it the log has the class and every frame, but no value, whatever was raised."""
    error = catch(hide_values()(call))
    line = write_log(error)
    assert CANARY not in line
    assert type(error).__name__ in line
    assert call.__name__ in line
    assert __file__ in line


def test_an_error_is_logged_with_its_class_and_place() -> None:
    """An unexpected error tells which exception it was and which line raised it."""
    error = catch(hide_values()(parse_value))
    assert isinstance(error, UnexpectedError)
    assert str(error).startswith(f"ValueError in parse_value ({__file__}:{parse_value.__code__.co_firstlineno + 1})")


def test_airflows_own_exceptions_pass() -> None:
    """Skipping a task still skips it."""
    from airflow.sdk.exceptions import AirflowSkipException

    error = AirflowSkipException("no messages to read")
    assert without_values(error) is error


def test_every_task_hides_values(bag: Any) -> None:
    """No DAG has a task whose unexpected errors reach the log as they are."""
    tasks = [task for dag in bag.dags.values() for task in dag.tasks]
    assert len(tasks) > 10
    for task in tasks:
        function = getattr(task, "python_callable", None) or task.partial_kwargs["python_callable"]
        with pytest.raises(UnexpectedError, match="TypeError"):
            function(no_such_argument=CANARY)
