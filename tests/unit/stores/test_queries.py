"""Named statements in .sql files."""

from __future__ import annotations

import re
from pathlib import Path

from include.stores.postgres import load_queries
from include.stores.warehouse.schema import SQL

PROJECT = Path(__file__).resolve().parents[3]
FOLDER = PROJECT / "include" / "stores" / "warehouse" / "queries"


def test_each_statement_has_the_name_above_it(tmp_path: Path) -> None:
    """A statement keeps its lines and ends at the next name; text before the first name is ignored."""
    file = tmp_path / "statements.sql"
    file.write_text(
        "-- an introduction\n\n-- name: one \nSELECT 1\n  -- why\n  , 2\n\n-- name: two\nSELECT '-- name'\n"
    )
    assert load_queries(tmp_path) == {"one": "SELECT 1\n  -- why\n  , 2", "two": "SELECT '-- name'"}


def test_a_file_without_names_has_no_statements(tmp_path: Path) -> None:
    """A statement without a name above it is not loaded."""
    file = tmp_path / "statements.sql"
    file.write_text("SELECT 1;\n")
    assert load_queries(tmp_path) == {}


def test_statement_names_are_unique() -> None:
    """No two statements share a name, because the second would silently replace the first."""
    names = re.findall(
        r"^-- name: *(\S+)", "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.sql")), re.MULTILINE
    )
    assert sorted(names) == sorted(SQL)
    assert all(SQL.values())


def test_every_statement_exists_and_is_used() -> None:
    """Every statement that the code names exists, and every existing statement is used."""
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT / "include").rglob("*.py")]
    used = {name for source in sources for name in re.findall(r'SQL\["(\w+)"\]', source)}
    assert used == set(SQL)
