"""Quoting ids in Milvus filters."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from include.stores.milvus import any_of, quote

#: A string as Milvus parses it: without an unescaped quote, backslash or line break.
STRING = re.compile(r'"(?:[^"\\\n\r]|\\["\\nr])*"')


@settings(deadline=None)  # a busy machine is not a failure
@given(st.text())
def test_any_text_can_be_quoted(text: str) -> None:
    """No character of an id ends its string early, and Milvus unquotes the string to the same id."""
    quoted = quote(text)
    assert STRING.fullmatch(quoted)
    escapes = {"\\\\": "\\", '\\"': '"', "\\n": "\n", "\\r": "\r"}
    assert re.sub(r"\\.", lambda match: escapes[match.group()], quoted[1:-1]) == text


def test_several_ids_are_one_filter() -> None:
    """A filter for several ids lists them quoted, in the order given."""
    assert any_of("id", ["a", 'b"', "c\\"]) == r'id in ["a","b\"","c\\"]'
