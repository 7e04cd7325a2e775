"""Reads the documentation pages, for the tests that compare them with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
README = PROJECT / "README.md"
CONTRIBUTING = PROJECT / "CONTRIBUTING.md"

#: Every page that these tests check.
PAGES = [README, CONTRIBUTING, *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<kind>[a-z]*)\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)


def page_text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def page_name(page: Path) -> str:
    """The page's path within the project."""
    return str(page.relative_to(PROJECT))


def fenced_blocks(page: Path, *kinds: str) -> list[str]:
    """The contents of the fenced code blocks of these kinds."""
    return [block["lines"] for block in _FENCE.finditer(page_text(page)) if block["kind"] in kinds]


def section(page: Path, heading: str) -> str:
    """The text between a ``##`` heading and the next heading of that level."""
    _, separator, rest = page_text(page).partition(f"\n## {heading}\n")
    assert separator, f"{page_name(page)} has no section {heading!r}"
    return rest.partition("\n## ")[0]


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row in ``text``, without headers and separators."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for row, following in zip(rows, [*rows[1:], ""], strict=True):
        if not row.startswith("|---") and not following.startswith("|---"):
            yield [cell.strip() for cell in row.strip("|").split("|")]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page_text(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
