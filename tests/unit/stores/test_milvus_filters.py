"""Ids in Milvus filters."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from include.stores.milvus import any_of, quote

#: A string as Milvus reads it: no bare quote, backslash or line end inside.
STRING = re.compile(r'"(?:[^"\\\n\r]|\\["\\nr])*"')


@settings(deadline=None)  # a busy machine is no failure
@given(st.text())
def test_a_quoted_text_ends_where_it_should(text: str) -> None:
    """Nothing in an id ends the string that holds it, and what Milvus unquotes is the id."""
    quoted = quote(text)
    assert STRING.fullmatch(quoted)
    escapes = {"\\\\": "\\", '\\"': '"', "\\n": "\n", "\\r": "\r"}
    assert re.sub(r"\\.", lambda found: escapes[found.group()], quoted[1:-1]) == text


def test_a_filter_for_several_ids() -> None:
    """One list, in the order given."""
    assert any_of("id", ["a", 'b"', "c\\"]) == r'id in ["a","b\"","c\\"]'
