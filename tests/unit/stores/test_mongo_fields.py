"""Escaping field names for MongoDB, and unescaping them again."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from include.stores.mongo import escape_names, unescape_names

NAMES = st.text(st.one_of(st.sampled_from("$.＄．＼_a"), st.characters(codec="utf-8")), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=15,
)


def _names(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(name for member in value.values() for name in _names(member))]
    return [name for member in value for name in _names(member)] if isinstance(value, list) else []


@settings(deadline=None)  # a busy machine is not a failure
@given(VALUES)
def test_escaping_is_reversible(value: Any) -> None:
    """Unescaping restores every name, whatever full-width characters it contains, so no two names become one."""
    assert unescape_names(escape_names(value)) == value


@settings(deadline=None)  # a busy machine is not a failure
@given(VALUES)
def test_no_escaped_name_is_an_operator_or_a_path(value: Any) -> None:
    """An escaped name contains neither ``$`` nor ``.``, which have a meaning to MongoDB."""
    assert not any(character in name for name in _names(escape_names(value)) for character in "$.")


def test_escaped_names_stay_readable() -> None:
    """The replacement characters look like the ones that they replace."""
    assert escape_names({"$a.b": {"＄": "$"}}) == {"＄a．b": {"＼＄": "$"}}
