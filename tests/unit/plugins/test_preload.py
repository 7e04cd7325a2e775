"""Modules that are imported before tasks fork: all exist, and importing them has no side effects.

Each test uses a separate process, because this one may have imported them already.
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
from include.bootstrap import SINKS

PROJECT = Path(__file__).resolve().parents[3]

_PROGRAM = """
import json, logging, sys, threading
import psutil
import preload
from include.bootstrap import SINKS

messages = []
class Recorder(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
preload.log.addHandler(Recorder())

me = psutil.Process()
def describe():
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "connections": len(me.net_connections("all")),
        "children": len(me.children(recursive=True)),
    }

before = describe()
sys.argv = ["airflow", *sys.argv[1:]]
preload.on_starting(None)
after = describe()
loaded = [name for name in preload.modules_to_preload() if name in sys.modules]
print(json.dumps({"before": before, "after": after, "loaded": loaded, "messages": messages}))
"""


def start(component: str) -> dict[str, Any]:
    """The state of an Airflow component before and after it calls the listener."""
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "plugins")])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM, component],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    state: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return state


@pytest.fixture(scope="module")
def scheduler() -> dict[str, Any]:
    """The state of a scheduler that has started."""
    return start("scheduler")


def test_every_module_exists(scheduler: dict[str, Any]) -> None:
    """Every module on the list can be imported; in production a wrong name would only cause a warning."""
    assert scheduler["messages"] == []
    assert scheduler["loaded"] == list(preload.modules_to_preload())


def test_preloading_only_imports_modules(scheduler: dict[str, Any]) -> None:
    """Preloading creates no threads, sockets or processes, because they would not survive a fork."""
    assert scheduler["after"] == scheduler["before"]
    assert scheduler["after"]["threads"] == ["MainThread"]


@pytest.mark.parametrize("component", ["triggerer", "dag-processor", "api-server"])
def test_only_the_scheduler_preloads(component: str) -> None:
    """Components that never fork tasks preload nothing, because it would only cost memory."""
    heavy = {"include.pipeline.stage", "great_expectations", "pymilvus", "pandas", "psycopg2.extras"}
    assert not heavy & set(start(component)["loaded"])


def test_the_list_contains_every_sink_and_no_duplicates() -> None:
    """Every registered sink is preloaded, and no module is listed twice."""
    modules = preload.modules_to_preload()
    assert len(set(modules)) == len(modules)
    assert {f"include.sinks.{name}" for name in SINKS} <= set(modules)


def test_every_import_of_the_composition_root_is_preloaded() -> None:
    """Every module that the composition root imports in a function for a task is on the list."""
    import ast

    tree = ast.parse((PROJECT / "include" / "bootstrap.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    lazy = {
        node.module
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert len(lazy) > 5
    dry_runs, rare = (
        {"include.memory_servers", "include.sources.memory"},
        {"include.pipeline.redrive"},
    )
    imported_by_others = {"include.sources.kafka_producer"}
    assert lazy - dry_runs - rare - imported_by_others <= set(preload.modules_to_preload())
