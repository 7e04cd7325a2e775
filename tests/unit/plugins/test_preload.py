"""Modules loaded ahead of the tasks: all there, and nothing but loaded.

Each test looks at a process of its own: in this one they may be loaded already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import preload

PROJECT = Path(__file__).resolve().parents[3]

_PROGRAM = """
import json, logging, sys, threading
import psutil
import preload

said = []
class Keep(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
preload.log.addHandler(Keep())

me = psutil.Process()
def look():
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "connections": len(me.net_connections("all")),
        "children": len(me.children(recursive=True)),
    }

before = look()
sys.argv = ["airflow", *sys.argv[1:]]
preload.on_starting(None)
after = look()
loaded = [name for name in preload._MODULES if name in sys.modules]
print(json.dumps({"before": before, "after": after, "loaded": loaded, "said": said}))
"""


def started(component: str) -> dict[str, Any]:
    """What a component of Airflow looks like before and after the listener was called in it."""
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "plugins")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM, component],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def scheduler() -> dict[str, Any]:
    """The scheduler after it was started."""
    return started("scheduler")


def test_every_module_is_there(scheduler: dict[str, Any]) -> None:
    """A name that is misspelt or gone would only be a warning in a log: here it is a failure."""
    assert scheduler["said"] == []
    assert scheduler["loaded"] == list(preload._MODULES)


def test_nothing_but_modules_is_loaded(scheduler: dict[str, Any]) -> None:
    """No thread, no socket and no process is there that was not before: the fork would break them."""
    assert scheduler["after"] == scheduler["before"]
    assert scheduler["after"]["threads"] == ["MainThread"]


@pytest.mark.parametrize("component", ["triggerer", "dag-processor", "api-server"])
def test_only_the_scheduler_loads_anything(component: str) -> None:
    """What forks no tasks would only grow by it."""
    own = {"include.bootstrap", "great_expectations", "pymilvus", "pandas", "psycopg2.extras"}
    assert not own & set(started(component)["loaded"])


def test_no_module_is_named_twice() -> None:
    """The list is one of different modules, the project's own among them."""
    assert len(set(preload._MODULES)) == len(preload._MODULES)
    assert "include.bootstrap" in preload._MODULES


def test_a_tasks_own_imports_are_on_the_list() -> None:
    """Every adapter that the composition root loads when it is called is loaded ahead."""
    import ast

    tree = ast.parse((PROJECT / "include" / "bootstrap.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    late = {
        node.module
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    # Those that another module of the list brings along.
    along = {"include.stores.milvus", "include.stores.neo4j"}
    assert len(late) > 5
    assert late - along <= set(preload._MODULES)
