"""A dry run of every DAG in one process without a server, exactly as docs/dry-run.md shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .conftest import PROJECT

PAGE = (PROJECT / "docs" / "dry-run.md").read_text(encoding="utf-8")
#: Appended to the page's script: what the run must have left in memory.
_CHECK = """
from include.domain.recommendation_list import list_key, unpack

assert servers.warehouse.ledger.read_position("events", 0) == 1
for name in ("mongo", "milvus", "neo4j", "warehouse"):
    assert len(servers.rows(name)) == 1, name
packed = servers.lists.get(list_key("all_minilm_l6_v2_0_1_0_384", "u-17"))
assert packed is not None
print("items:", [item.item_id for item in unpack(packed).items])
"""


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert match
    return match[1]


def test_the_page_runs_as_it_is(tmp_path: Path) -> None:
    """Every DAG succeeds on memory:// connections, every sink has the event, and the user has a list."""
    text = block("dotenv").replace("/path/to/millrace-dry-run", str(tmp_path))
    variables = dict(line.split("=", 1) for line in text.splitlines() if line)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MILLRACE"))}
    environment = {**inherited, **variables}
    script = tmp_path / "dry_run.py"
    script.write_text(block("python") + _CHECK, encoding="utf-8")
    for command in (("-m", "airflow", "db", "migrate"), (str(script),)):
        result = subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout[-4_000:] + result.stderr[-4_000:]
    lines = result.stdout.splitlines()
    dags = ("ingest_shard_000", "aggregate_engagement", "precompute_recommendations", "reconcile")
    assert [line for line in lines if line.startswith(dags)] == [f"{dag} success" for dag in dags]
    # The user owns the only item, so the list exists and is empty.
    assert "items: []" in lines
