"""The README: short enough to read, and true about commands and addresses that every reader meets first."""

from __future__ import annotations

import re

from stack.installation import DEFAULT_PORTS
from tests.pages import DOCS, PROJECT, README, page_name, page_text, section

MOST_LINES = 150


def test_the_readme_is_short() -> None:
    """A newcomer can read the whole page; details belong on the pages in docs/."""
    assert len(page_text(README).splitlines()) <= MOST_LINES


def test_the_readme_shows_real_output_of_the_demo() -> None:
    """The block can be found by its markers, and it has the summary and a list."""
    (block,) = re.findall(r"<!-- demo-output -->\n```text\n(.*?)```\n<!-- /demo-output -->", page_text(README), re.S)
    assert "delivered" in block
    assert "with similar taste" in block


def test_every_dag_is_in_the_table() -> None:
    """The table names each DAG that the factories build."""
    table = section(README, "How it works")
    for factory in ("ingest", "aggregate", "precompute"):
        code = (PROJECT / "dags" / "dag_factories" / f"{factory}.py").read_text(encoding="utf-8")
        (dag_id,) = re.findall(r'dag_id=f?"(\w+?)(?:_\{\w+\})?"', code)
        assert re.search(rf"^\| `{dag_id}\w*` \|", table, re.MULTILINE), dag_id


def test_the_index_lists_every_page() -> None:
    """A page that the index does not list is a page that nobody finds."""
    index = page_text(DOCS / "README.md")
    for page in DOCS.glob("*.md"):
        if page.name != "README.md":
            assert f"]({page.name})" in index, page_name(page)


def test_the_addresses_are_the_default_ones() -> None:
    """The addresses that the pages name are those the local servers listen on."""
    assert f"http://127.0.0.1:{DEFAULT_PORTS['airflow']}`" in page_text(DOCS / "operations.md")
    assert f"http://127.0.0.1:{DEFAULT_PORTS['reader']}/v1/users/" in page_text(DOCS / "http-api.md")
