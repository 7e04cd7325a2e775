"""All pages: links and paths exist, commands work, and no text refers to a particular machine or registry."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.pages import CONTRIBUTING, DOCS, PAGES, PROJECT, anchors, fenced_blocks, page_name, page_text, section

ADRS = sorted(path.name for path in (DOCS / "adr").glob("[0-9]*.md"))

#: Created on the user's machine, or by the command in the guide to a new sink.
_NOT_IN_THE_PROJECT = ("docker/.env", "include/sinks/search.py", "tests/contract/test_search.py")
#: A project path in backticks: a known folder, then anything without spaces.
_PATH = re.compile(r"`((?:dags|demo|docs|docker|include|plugins|scripts|stack|tests)/[\w./-]*)`")
_HOSTS = re.compile(r"pypi\.org|pythonhosted|maven\.org|apache\.org/maven|docker\.io|/(?:home/\w|root/|Users/)")
_LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")


def command_lines() -> Iterator[str]:
    """All command lines on all pages."""
    for page in PAGES:
        for block in fenced_blocks(page, "sh", "bash", "shell", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    yield line.removeprefix("$ ").strip()


COMMANDS = sorted(set(command_lines()))


def unchecked_commands() -> list[str]:
    """The commands that CONTRIBUTING.md lists as unchecked."""
    return re.findall(r"^\| `([^`]+)` \|", section(CONTRIBUTING, "Documentation"), re.MULTILINE)


def words(line: str) -> list[str]:
    """The words of a command, without the variables that precede it."""
    parts = shlex.split(line)
    while _VARIABLE.match(parts[0]):
        parts.pop(0)
    return parts


def python_arguments(line: str) -> list[str] | None:
    """The arguments of ``python -m``, alone or inside ``eval "$(...)"``; None for any other command."""
    inner = re.fullmatch(r'eval "\$\((.*)\)"', line)
    parts = words(inner[1] if inner else line)
    return parts[2:] if re.fullmatch(r"(.*/)?python3?", parts[0]) and parts[1] == "-m" else None


@cache
def help_text(*arguments: str) -> str:
    """The output of ``python -m ... --help``."""
    command = [sys.executable, "-m", *arguments, "--help"]
    # A wide terminal, so that options are not broken across lines.
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("line", [line for line in COMMANDS if words(line)[0] == "make"])
def test_make_commands_exist(line: str) -> None:
    """Every make command uses documented targets of the Makefile, and make accepts it."""
    targets = [word for word in words(line)[1:] if "=" not in word]
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert set(targets) <= set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    result = subprocess.run(
        ["make", "--dry-run", *words(line)[1:]], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("line", [line for line in COMMANDS if python_arguments(line) is not None])
def test_python_commands_accept_their_options(line: str) -> None:
    """Every module exists and accepts the subcommand and options on the page."""
    arguments = python_arguments(line)
    assert arguments
    help_pages = help_text(arguments[0]) + help_text(*arguments)
    for option in (word for word in arguments if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_pages), f"unknown option {option} in: {line}"


@pytest.mark.parametrize("line", COMMANDS)
def test_every_other_command_is_listed_as_unchecked(line: str) -> None:
    """Each command is either checked here or listed in CONTRIBUTING.md with the reason why it is not."""
    if words(line)[0] == "make" or python_arguments(line) is not None:
        return
    assert any(line.startswith(command) for command in unchecked_commands()), f"neither checked nor listed: {line}"


def test_the_unchecked_commands_are_used() -> None:
    """CONTRIBUTING.md lists only commands that appear on some page."""
    for command in unchecked_commands():
        assert any(line.startswith(command) for line in COMMANDS), f"no page uses {command}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_resolve(page: Path) -> None:
    """Every relative link points to an existing file and, with an anchor, to a heading in it."""
    for link in _LINK.finditer(page_text(page)):
        if link["target"].startswith("http"):
            continue
        target = page.parent / link["target"] if link["target"] else page
        assert target.exists(), f"{page_name(page)} links to {link['target']}"
        if link["anchor"]:
            assert link["anchor"] in anchors(target), f"{page_name(page)} links to {link['target']}#{link['anchor']}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_paths_exist(page: Path) -> None:
    """Every project path on a page exists."""
    for path in _PATH.findall(page_text(page)):
        if path not in _NOT_IN_THE_PROJECT:
            assert (PROJECT / path).exists(), f"{page_name(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_page_names_a_registry_or_a_home_folder(page: Path) -> None:
    """Pages stay correct when a registry moves or the project is in another folder."""
    assert _HOSTS.findall(page_text(page)) == []


@pytest.mark.parametrize("name", ADRS)
def test_decisions_have_the_same_sections(name: str) -> None:
    """Each decision has the same four sections and a row in the index."""
    text = page_text(DOCS / "adr" / name)
    sections = ["Question", "Decision", "Rejected", "What follows"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == sections
    assert text.startswith(f"# {name[:4]}: ")
    assert f"]({name})" in page_text(DOCS / "adr" / "README.md")


def test_the_licence_is_complete() -> None:
    """pyproject.toml specifies Apache-2.0, and LICENSE contains the full text of that licence."""
    text = (PROJECT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
