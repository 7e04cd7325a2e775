"""The README is short, and what it shows and lists matches the code; so do the index and the default addresses."""

from __future__ import annotations

import re
from io import StringIO

from rich.console import Console

from demo.manifest import Manifest
from demo.reader import UserRecommendations
from demo.reconcile import Counts
from demo.report import build_report, print_counts, print_seconds, print_users
from include.bootstrap import SINKS
from stack.installation import DEFAULT_PORTS
from tests.pages import DOCS, PROJECT, README, page_name, page_text, section

MAX_LINES = 150


def demo_output() -> str:
    """The block between the markers."""
    (block,) = re.findall(r"<!-- demo-output -->\n```text\n(.*?)```\n<!-- /demo-output -->", page_text(README), re.S)
    return str(block)


def labels(line: str) -> list[str]:
    """The labels in a line of output, without numbers, ids and values after a colon."""
    cells = re.split("[┃│]|, ", line.partition(":")[0])
    return [cell.strip() for cell in cells if re.search("[a-z]", cell) and not re.search("[0-9]", cell)]


def test_the_readme_is_short() -> None:
    """Newcomers can read the whole page; details belong in docs/."""
    assert len(page_text(README).splitlines()) <= MAX_LINES


def test_the_readme_shows_real_output_of_the_demo() -> None:
    """The block contains the counts and a recommendation list."""
    block = demo_output()
    assert "delivered" in block
    assert "with similar taste" in block


def test_the_output_has_the_demos_headings() -> None:
    """Every title, column and row label in the block is one that the demo prints."""
    out = StringIO()
    console = Console(file=out, width=200)
    counts = Counts(0, 0, 0, {}, dict.fromkeys(SINKS, 0), 0)
    print_counts(console, counts, counts, 0)
    print_seconds(console, build_report(counts, Manifest("", 1, "", 0, 0.0), 0.0))
    print_users(console, [UserRecommendations("user", "similar_users", [], ["an item"])])
    for line in demo_output().splitlines():
        if not re.match(r" +\d+\. ", line):  # a recommended item
            for label in labels(line):
                assert label in out.getvalue()


def test_every_dag_is_in_the_table() -> None:
    """The table lists each DAG that the factories build."""
    table = section(README, "How it works")
    for factory in ("ingest", "aggregate", "precompute"):
        code = (PROJECT / "dags" / "dag_factories" / f"{factory}.py").read_text(encoding="utf-8")
        (dag_id,) = re.findall(r'dag_id=f?"(\w+?)(?:_\{\w+\})?"', code)
        assert re.search(rf"^\| `{dag_id}\w*` \|", table, re.MULTILINE), dag_id


def test_the_index_lists_every_page() -> None:
    """Readers find every page through the index."""
    index = page_text(DOCS / "README.md")
    for page in DOCS.glob("*.md"):
        if page.name != "README.md":
            assert f"]({page.name})" in index, page_name(page)


def test_the_pages_show_the_default_addresses() -> None:
    """The addresses on the pages are those the local servers listen on."""
    assert f"http://127.0.0.1:{DEFAULT_PORTS['airflow']}`" in page_text(DOCS / "operations.md")
    assert f"http://127.0.0.1:{DEFAULT_PORTS['reader']}/v1/users/" in page_text(DOCS / "http-api.md")
