"""A sink from the template, added to a copy of the project as docs/adding-a-sink.md says."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NAME = "search_index"


@pytest.fixture(scope="module")
def new_sink() -> Any:
    """scripts/new_sink.py as a module."""
    spec = importlib.util.spec_from_file_location("new_sink", PROJECT / "scripts" / "new_sink.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, new_sink: Any) -> Path:
    """A copy of the project in which the sink is added: two new files and three edited ones."""
    copy = tmp_path_factory.mktemp("new-sink") / "project"
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    for name in listing.stdout.splitlines():
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, copy / name)
    (copy / ".venv").symlink_to(Path(sys.prefix))
    if (PROJECT / ".mypy_cache").exists():
        shutil.copytree(PROJECT / ".mypy_cache", copy / ".mypy_cache")
    run(copy, sys.executable, "scripts/new_sink.py", NAME)
    parts = new_sink.build_snippets(NAME)
    insert(copy / "include/bootstrap.py", "#: Every store of events", parts["opener"] + "\n\n")
    insert(copy / "include/bootstrap.py", '    "warehouse": SinkSpec(', parts["registration"])
    insert(copy / "airflow_settings.yaml", "    - conn_id: redis_default", parts["connection"])
    insert(copy / "docs/stores.md", "| `warehouse`", parts["row"])
    return copy


def insert(path: Path, before: str, text: str) -> None:
    """Insert ``text`` in front of the one place where ``before`` stands."""
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, f"{path.name} has {before!r} {content.count(before)} times"
    path.write_text(content.replace(before, text + before), encoding="utf-8")


def run(folder: Path, *command: str) -> str:
    """The output of a command that must succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "AIRFLOW_"))}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_copy_passes_every_check(project: Path) -> None:
    """Style, types and import rules accept the generated files as they are."""
    run(project, "make", "check")


def test_the_copy_passes_the_tests_that_iterate_over_sinks(project: Path) -> None:
    """The contract suite runs on the new sink, in memory and on its database; every ingest DAG has its task."""
    suites = ["tests/contract/test_sinks.py", f"tests/contract/test_{NAME}.py"]
    dags = [
        "every_dag_parses",
        "only_sinks_that_need_vectors_wait_for_embed",
        "pools_and_connections_are_in_the_settings_file",
    ]
    others = [
        *(f"tests/dags/test_dags.py::test_{name}" for name in dags),
        "tests/unit/plugins/test_preload.py::test_the_list_contains_every_sink_and_no_duplicates",
        "tests/unit/test_docs_match_code.py",
    ]
    output = run(project, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, *others)
    assert " passed" in output


def test_a_demo_counts_the_new_sink(project: Path) -> None:
    """The counts that the demo compares with its input include the new store."""
    program = (
        "from include import bootstrap\n"
        "from include.settings import EnvironmentSettings\n"
        f"environment = {{f'MILLRACE_{{name}}': 'memory://test' for name in {_ADDRESSES!r}}}\n"
        "print(sorted(bootstrap.count_sinks(EnvironmentSettings(environment))))"
    )
    assert NAME in run(project, sys.executable, "-c", program)


_ADDRESSES = ["MONGO_URI", "MILVUS_URI", "NEO4J_URI", "WAREHOUSE_DSN", f"{NAME.upper()}_URL"]


@pytest.mark.parametrize("name", ["Search", "1st", "a-b", "", "class", "memory", "../x"])
def test_a_name_that_cannot_be_a_module_is_rejected(new_sink: Any, name: str) -> None:
    """The error says which names are possible, and nothing is written."""
    assert "lower-case letters" in new_sink.find_problem(name, PROJECT)


def test_an_existing_sink_is_not_overwritten(new_sink: Any) -> None:
    """The error names the file that exists."""
    assert new_sink.find_problem("mongo", PROJECT).startswith("include/sinks/mongo.py already exists")
