"""The rules for values: the first failure of each row, and warnings about the whole batch."""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import pytest

from include.domain.batch import Record, events_table
from include.domain.event import Event
from include.domain.reasons import Reason
from include.errors import UnexpectedError
from include.validation.great_expectations import GreatExpectationsValidator
from tests.canary import CANARY, ODD, LeakCheck

DAY = 86_400_000


@pytest.fixture(scope="module")
def validator() -> GreatExpectationsValidator:
    return GreatExpectationsValidator()


def event(**changes: Any) -> Event:
    fields = {"user_id": "u", "message_id": "m", "kind": "view", "occurred_at": 0, "item_id": "i"}
    return Event(**{**fields, **changes})


def table(*events: Event) -> Any:
    return events_table([(Record(0, offset, 0, None, None), each) for offset, each in enumerate(events)])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_id": ""}, Reason.USER_ID_LENGTH),
        ({"user_id": "x" * 129}, Reason.USER_ID_LENGTH),
        ({"message_id": "x" * 129}, Reason.MESSAGE_ID_LENGTH),
        ({"kind": ""}, Reason.KIND_LENGTH),
        ({"occurred_at": DAY + 1}, Reason.OCCURRED_AT_IN_FUTURE),
        ({"item_id": "x" * 257}, Reason.ITEM_ID_LENGTH),
        ({"campaign_id": "x" * 257}, Reason.CAMPAIGN_ID_LENGTH),
        ({"item_id": None}, Reason.NO_TEXT_AND_NO_ITEM),
        ({"user_id": "", "message_id": "", "item_id": None}, Reason.USER_ID_LENGTH),
    ],
)
def test_an_invalid_row_gets_a_reason(
    validator: GreatExpectationsValidator, changes: dict[str, Any], reason: Reason
) -> None:
    """Each rule finds the invalid row among valid ones; a row that fails several rules gets the first one's reason."""
    assert validator.validate(table(event(), event(**changes), event())).rejected == {1: reason}


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "\U0001f9e1" * 128, "message_id": "x", "kind": "x" * 128},
        {"occurred_at": DAY},
        {"occurred_at": -62135596800000},
        {"item_id": None, "text": "x"},
        {"value": -1e308},
    ],
)
def test_values_at_the_limits_are_valid(validator: GreatExpectationsValidator, changes: dict[str, Any]) -> None:
    """The longest ids, a time one day ahead, any past time, a text without an item and any finite value are valid."""
    assert validator.validate(table(event(**changes))).rejected == {}


def test_a_message_without_a_time_is_not_judged_as_from_1969(validator: GreatExpectationsValidator) -> None:
    """The reason is that the message has no timestamp, whenever the event occurred, and others are not affected."""
    rows = [(Record(0, n, at, None, None), event(occurred_at=3 * n * DAY)) for n, at in enumerate([-1, -1, 6 * DAY])]
    verdict = validator.validate(events_table(rows))
    assert verdict.rejected == {0: Reason.PUBLISHED_AT_MISSING, 1: Reason.PUBLISHED_AT_MISSING}


def test_an_ordinary_batch_causes_no_warning(validator: GreatExpectationsValidator) -> None:
    """Distinct messages of known kinds in the past cause no warning; nor does an empty batch."""
    assert validator.validate(table(*(event(message_id=str(n)) for n in range(50)))).warnings == []
    assert validator.validate(table()) == ({}, [])


def test_an_odd_batch_causes_warnings_only(validator: GreatExpectationsValidator) -> None:
    """Unknown kinds, many duplicates and clocks that are ahead reject no row."""
    verdict = validator.validate(table(*(event(kind="zoomed", occurred_at=1) for _ in range(50))))
    assert verdict.rejected == {}
    assert len(verdict.warnings) == 3


def test_no_value_is_logged(
    validator: GreatExpectationsValidator, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whether it rejects rows, warns about the batch or cannot evaluate its rules, no value is logged or raised."""
    caplog.set_level(logging.INFO)
    check = LeakCheck(caplog, capfd)
    events = table(*(event(user_id=ODD * 9, message_id=f"{ODD} {n}", kind=ODD, item_id=ODD * 9) for n in range(4)))
    verdict = validator.validate(events)
    assert len(verdict.rejected) == 4
    assert verdict.warnings
    assert CANARY not in repr(verdict)
    check.assert_silent()
    unreadable = events.set_column(1, "user_id", pa.array([ODD.encode() + b"\xff"] * 4))
    check.fails(UnexpectedError, "KeyError", lambda: validator.validate(unreadable), quoted=None)
