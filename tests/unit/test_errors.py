"""No adapter may pass on what a driver says, neither in its message nor in its traceback."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ADAPTERS = [
    path
    for folder in ("stores", "sinks", "sources", "embedders", "validation")
    for path in sorted((PROJECT / "include" / folder).rglob("*.py"))
]
TEMPLATE = PROJECT / "scripts" / "templates" / "sink.py.txt"


def find_quotes(source: str) -> list[int]:
    """The lines in which an exception handler formats the caught error or raises another one ``from`` it."""
    handlers = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler) and node.name]
    return sorted({line for handler in handlers for line in _find_in_handler(handler)})


def _find_in_handler(handler: ast.ExceptHandler) -> Iterator[int]:
    for node in ast.walk(handler):
        match node:
            case ast.Raise(cause=ast.Name(id=name)) | ast.FormattedValue(value=ast.Name(id=name)):
                if name == handler.name:
                    yield node.lineno


def test_quotes_are_found() -> None:
    """The check below recognises both ways of passing on an error."""
    body = "try:\n    run()\nexcept ValueError as exc:\n    "
    assert find_quotes(body + 'raise KeyError(f"wrong: {exc}") from None') == [4]
    assert find_quotes(body + 'raise KeyError("wrong") from exc') == [4]
    assert find_quotes(body + 'raise KeyError(f"wrong: {exc.code}") from None') == []


@pytest.mark.parametrize("path", [*ADAPTERS, TEMPLATE], ids=lambda path: path.name)
def test_no_adapter_quotes_a_driver(path: Path) -> None:
    """Error messages are made of codes, and ``from None`` leaves the driver's error out of the traceback."""
    source = path.read_text(encoding="utf-8")
    if path == TEMPLATE:
        source = source.format(title="Title", name="name", class_name="NameSink")
    assert find_quotes(source) == []
