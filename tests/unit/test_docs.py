"""The pages beside the code: their links lead somewhere, and they name no place that is not the reader's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(PROJECT)) for page in PAGES]
ADRS = sorted(path.name for path in (PROJECT / "docs" / "adr").glob("[0-9]*.md"))

#: What is made on the reader's machine, and the sink that the guide makes up.
_NOT_OURS = ("docker/.env", "search.py")
#: A path of ours in backticks: a folder that we know, then anything without a blank.
_PATH = re.compile(r"`((?:dags|docs|docker|include|plugins|scripts|tests)/[\w./-]*)`")
_HOSTS = re.compile(r"pypi\.org|pythonhosted|maven\.org|apache\.org/maven|docker\.io|/home/\w|/root/|/Users/")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file of the project."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_paths_are_there(page: Path) -> None:
    """Every file that a page names is one."""
    text = page.read_text(encoding="utf-8")
    for path in _PATH.findall(text):
        if not path.endswith(_NOT_OURS):
            assert (PROJECT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_page_names_a_host_or_a_home(page: Path) -> None:
    """Registries may move, and nobody else has our folders."""
    assert _HOSTS.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", ADRS)
def test_a_decision_says_what_was_rejected(name: str) -> None:
    """Each page has the same four parts and a row in the index."""
    text = (PROJECT / "docs" / "adr" / name).read_text(encoding="utf-8")
    parts = ["Question", "Decision", "Rejected", "What follows"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == parts
    assert text.startswith(f"# {name[:4]}: ")
    assert f"]({name})" in (PROJECT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")


def test_the_licence_is_the_whole_text() -> None:
    """pyproject.toml names Apache-2.0, and LICENSE is it, from the title to the appendix."""
    text = (PROJECT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
