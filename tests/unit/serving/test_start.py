"""The start of the reader's process: what it loads, and what it refuses to start with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
PASSWORD = "s3cret/word"


def test_it_loads_nothing_heavy() -> None:
    """Neither Airflow nor a model nor the pipeline is loaded by what the reader is made of."""
    code = "import sys, include.serving.composition, include.serving.__main__; print(*sys.modules)"
    found = subprocess.run((sys.executable, "-c", code), cwd=PROJECT, capture_output=True, text=True, check=True)
    modules = set(found.stdout.split())
    assert modules >= {"include.serving.app", "hiredis", "msgspec"}
    packages = {".".join(name.split(".")[:2]) if name.startswith("include") else name.split(".")[0] for name in modules}
    assert packages.isdisjoint({"airflow", "torch", "numpy", "pandas", "pyarrow", "redis", "pymongo", "pydantic"})
    ours = {name for name in packages if name.startswith("include")}
    assert ours == {"include", "include.domain", "include.errors", "include.serving"}


@pytest.mark.parametrize("url", ["", f"http://:{PASSWORD}@127.0.0.1/0", f"redis://:{PASSWORD}@127.0.0.1/zero"])
def test_a_wrong_setting_ends_it_at_once(url: str) -> None:
    """Status 2 and one line that names the setting, without the password in it."""
    environment = {**os.environ, "MILLRACE_REDIS_URL": url}
    command = (sys.executable, "-m", "include.serving")
    found = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert found.stderr.startswith("error: MILLRACE_REDIS_URL")
    assert found.stderr.count("\n") == 1
    assert PASSWORD not in found.stderr
