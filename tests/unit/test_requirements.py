"""requirements*.txt: every package is pinned and hashed, and no file says where packages come from."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.pages import PROJECT

FILES = sorted(path.name for path in PROJECT.glob("requirements*.txt"))
#: One entry: a line that starts at the margin, and the indented lines that continue it.
_ENTRY = re.compile(r"^(?!#)\S.*(?:\n\s+\S.*)*", re.MULTILINE)
_PINNED_AND_HASHED = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+")
_ADDRESS = re.compile(r"://|^\s*-{1,2}(?:i\b|f\b|index-url|extra-index-url|find-links|trusted-host)| @ ", re.MULTILINE)


def find_problems(requirements: str) -> list[str]:
    """The entries that are not pinned and hashed, and the lines that record an address."""
    entries = [match[0] for match in _ENTRY.finditer(requirements)]
    loose = [entry for entry in entries if not _PINNED_AND_HASHED.fullmatch(entry)]
    addresses = [line for line in requirements.splitlines() if _ADDRESS.search(line)]
    return [*loose, *(line for line in addresses if line not in loose)]


def test_there_are_three_files() -> None:
    """The project's packages, those of ``make audit``, and what ``make quality`` adds."""
    assert FILES == ["requirements-audit.txt", "requirements-quality.txt", "requirements.txt"]


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    """Whatever index answers, only these files are installed."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert len(_ENTRY.findall(text)) > (5 if name == "requirements-quality.txt" else 20)
    assert find_problems(text) == []


@pytest.mark.parametrize(
    "line",
    [
        "rich==15.0.0",
        "rich>=15 \\\n    --hash=sha256:" + 64 * "a",
        "rich==15.0.0 \\\n    --hash=md5:" + 32 * "a",
        "--index-url https://packages.example.com/simple",
        "--find-links /opt/wheels",
        "rich @ https://packages.example.com/rich-15.0.0.whl",
    ],
)
def test_a_loose_requirement_is_a_problem(line: str) -> None:
    """A requirement without a version or a SHA-256 hash, or with an address, is noticed."""
    assert find_problems(f"# a comment\n{line}\n") == [line]


@pytest.mark.parametrize("name", FILES)
def test_direct_requirements_are_compiled(name: str) -> None:
    """Each package of the .in file is in the compiled file."""
    lines = (PROJECT / name.replace(".txt", ".in")).read_text(encoding="utf-8").splitlines()
    direct = {
        canonicalize_name(Requirement(line.partition("#")[0]).name) for line in lines if line and line[0] not in "#-"
    }
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", (PROJECT / name).read_text(encoding="utf-8"), re.MULTILINE))
    assert direct <= pinned
