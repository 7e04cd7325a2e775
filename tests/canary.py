"""Marked values, and everything that a log shows of a failure: for the tests that no text, id or document leaks."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.tracebacks import ExceptionDictTransformer

from include.errors import hide_values
from stack.config import LocalConfig

#: Made up for each session, because a traceback quotes the lines of the source.
CANARY = f"canary{uuid4().hex[:12]}"
#: With the characters that escape from quotes, braces and format strings.
ODD = f"{CANARY} \"double\" 'single' {{braces}} [brackets] \\ %s $x ünï"

#: As Airflow writes the logs of tasks; tests/dags/test_exceptions.py checks that it still does.
_TO_JSON = ExceptionDictTransformer(use_rich=False, show_locals=False)


type Kinds = type[Exception] | tuple[type[Exception], ...]


@dataclass(frozen=True)
class Failure:
    """``provoke`` returns the call that fails, given what a test has set up; the rest as in ``LeakCheck.fails``."""

    name: str
    kind: Kinds
    match: str
    provoke: Callable[[Any], Callable[[], object]]
    quoted: bool | None = True


def failures(*cases: Failure) -> pytest.MarkDecorator:
    """Run a test with each of these as ``failure``."""
    return pytest.mark.parametrize("failure", cases, ids=lambda failure: failure.name)


def render(error: BaseException) -> str:
    """The error in every form that a log may have: the traceback with its chain, Airflow's JSON, str and repr."""
    as_json = json.dumps(_TO_JSON((type(error), error, error.__traceback__)))
    return "\n".join([*traceback.format_exception(error), as_json, str(error), repr(error)])


class LeakCheck:
    """Makes a call fail as it would in a task, and reads everything that would be logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        self._caplog = caplog
        self._capfd = capfd

    def fails(self, kind: Kinds, match: str, call: Callable[[], object], *, quoted: bool | None = True) -> None:
        """``call`` raises ``kind`` with a message like ``match``, and nothing shows the canary.

        ``quoted``: whether the driver's own error has the canary in it, so that there is something to hide; None if
        that depends on the server.
        """
        with pytest.raises(kind, match=match) as caught, hide_values():
            call()
        assert CANARY not in render(caught.value)
        self.assert_silent()
        if quoted is not None:
            assert any(map(_quotes_canary, _hidden_errors(caught.value))) is quoted

    def assert_silent(self) -> None:
        """Neither the logs nor the output of this process have the canary."""
        output = self._capfd.readouterr()
        assert CANARY not in self._caplog.text + output.out + output.err


def _hidden_errors(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__


def _quotes_canary(error: BaseException) -> bool:
    response = getattr(error, "response", None)
    return CANARY in "".join([str(error), repr(error), repr(error.__dict__), getattr(response, "text", "")])


def find_in_files(folder: Path, pattern: str = "**/*") -> list[str]:
    """The files below ``folder`` that contain the canary."""
    marker = CANARY.encode()
    found = []
    for path in folder.glob(pattern):
        try:
            if path.is_file() and marker in path.read_bytes():
                found.append(str(path))
        except FileNotFoundError:  # a running server has deleted it
            continue
    return found


def find_in_logs(config: LocalConfig, server: str) -> list[str]:
    """The logs of a server that contain the canary."""
    assert config.log(server).exists()
    return [*find_in_files(config.logs, f"{server}*"), *find_in_files(config.data("neo4j") / "logs")]
