"""Validates the values of a batch with a Great Expectations suite.

A row that fails one of ``_ROW_RULES`` becomes a dead letter with that rule's reason. A batch that fails one of
``_BATCH_RULES`` only causes a warning: its events are valid, but someone should look at their producer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from include.domain.event import FUTURE_LIMIT, ID_MAX, KNOWN_KINDS, LABEL_MAX
from include.domain.reasons import Reason
from include.domain.validation import Verdict

if TYPE_CHECKING:
    import pandas as pd

_FUTURE_LIMIT_MS = FUTURE_LIMIT.total_seconds() * 1000

type _Rule = tuple[str, dict[str, Any]]

#: In order: the first rule that a row fails gives its reason.
_ROW_RULES: tuple[tuple[Reason, _Rule], ...] = (
    (Reason.USER_ID_LENGTH, ("ValueLengths", {"column": "user_id", "min_value": 1, "max_value": ID_MAX})),
    (Reason.MESSAGE_ID_LENGTH, ("ValueLengths", {"column": "message_id", "min_value": 1, "max_value": ID_MAX})),
    (Reason.KIND_LENGTH, ("ValueLengths", {"column": "kind", "min_value": 1, "max_value": ID_MAX})),
    (Reason.PUBLISHED_AT_MISSING, ("Values", {"column": "published_at", "min_value": 0})),
    (Reason.OCCURRED_AT_IN_FUTURE, ("Values", {"column": "ahead_ms", "max_value": _FUTURE_LIMIT_MS})),
    (Reason.ITEM_ID_LENGTH, ("ValueLengths", {"column": "item_id", "min_value": 1, "max_value": LABEL_MAX})),
    (Reason.CAMPAIGN_ID_LENGTH, ("ValueLengths", {"column": "campaign_id", "min_value": 1, "max_value": LABEL_MAX})),
    (Reason.NO_TEXT_AND_NO_ITEM, ("Values", {"column": "contents", "min_value": 1})),
)
_BATCH_RULES: tuple[tuple[str, _Rule], ...] = (
    (
        "more than 5 % of the kinds are unknown",
        ("InSet", {"column": "kind", "value_set": sorted(KNOWN_KINDS), "mostly": 0.95}),
    ),
    ("more than half of the events are duplicates within the batch", ("Unique", {"column": "identity"})),
    ("more than 5 % of the events occurred after they were published", ("NotAhead", {"column": "ahead_ms"})),
)


class _Suite(NamedTuple):
    definition: Any
    expectations: Any


class GreatExpectationsValidator:
    """The Validator port. The first ``validate`` imports the library, which takes seconds unless it is preloaded."""

    @cached_property
    def _suite(self) -> _Suite:
        # Set before the import: otherwise the library reports its usage from the first call on.
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        # It logs a line for every method that it documents, and quotes values in its warnings and errors.
        logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
        import great_expectations as gx

        context: Any = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("batches").add_dataframe_asset("events")
        definition = asset.add_batch_definition_whole_dataframe("batch")
        expectations = [_expectation(gx, name, rule) for name, rule in (*_ROW_RULES, *_BATCH_RULES)]
        return _Suite(definition, gx.ExpectationSuite("events", expectations=expectations))

    def validate(self, events: pa.Table) -> Verdict:
        """Check the values of a batch; ``events`` has EVENT_SCHEMA."""
        if events.num_rows == 0:
            return Verdict({}, [])
        batch = self._suite.definition.get_batch(batch_parameters={"dataframe": _frame(events)})
        result = batch.validate(
            self._suite.expectations,
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        )
        # By name, because the library does not return the results in the order of the rules.
        failures = {_rule_name(each): each for each in result.results if not each.success}
        return Verdict(_rejected_rows(failures), [warning for warning, _ in _BATCH_RULES if warning in failures])


def _expectation(gx: Any, name: str, rule: _Rule) -> Any:
    kind, arguments = rule
    arguments = {**arguments, "meta": {"rule": str(name)}}
    rules = gx.expectations
    if kind == "ValueLengths":
        return rules.ExpectColumnValueLengthsToBeBetween(**arguments)
    if kind == "InSet":
        return rules.ExpectColumnValuesToBeInSet(**arguments)
    if kind == "Unique":
        return rules.ExpectColumnProportionOfUniqueValuesToBeBetween(min_value=0.5, **arguments)
    if kind == "NotAhead":
        return rules.ExpectColumnValuesToBeBetween(max_value=0, mostly=0.95, **arguments)
    return rules.ExpectColumnValuesToBeBetween(**arguments)


def _rule_name(result: Any) -> str:
    return str(result.expectation_config.meta["rule"])


def _frame(events: pa.Table) -> pd.DataFrame:
    """The columns that the rules check. Absent values are null, which the library's rules ignore."""
    texts = pc.cast(pc.is_valid(events["text"]), pa.int64())
    items = pc.cast(pc.is_valid(events["item_id"]), pa.int64())
    occurred = pc.cast(events["occurred_at"], pa.int64())
    columns = {
        "row": pa.array(range(events.num_rows), type=pa.int64()),
        "user_id": events["user_id"],
        "message_id": events["message_id"],
        "kind": events["kind"],
        "item_id": events["item_id"],
        "campaign_id": events["campaign_id"],
        "identity": events["event_id"],
        "published_at": events["published_at"],
        "ahead_ms": pc.subtract(occurred, events["published_at"]),
        "contents": pc.add(texts, items),
    }
    return pa.table(columns).to_pandas()


def _rejected_rows(failures: Mapping[str, Any]) -> Mapping[int, Reason]:
    rejected: dict[int, Reason] = {}
    for reason, _ in _ROW_RULES:
        if reason in failures:
            for index in failures[reason].result["unexpected_index_list"]:
                rejected.setdefault(int(index["row"]), reason)
    return rejected
