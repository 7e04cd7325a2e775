"""Starting the reader's process: which modules it loads, and which settings it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
PASSWORD = "s3cret/word"


def test_it_loads_nothing_heavy() -> None:
    """The reader loads neither Airflow nor a model nor the pipeline."""
    code = "import sys, include.serving.composition, include.serving.__main__; print(*sys.modules)"
    result = subprocess.run((sys.executable, "-c", code), cwd=PROJECT, capture_output=True, text=True, check=True)
    modules = set(result.stdout.split())
    assert modules >= {"include.serving.app", "hiredis", "msgspec"}
    packages = {".".join(name.split(".")[:2]) if name.startswith("include") else name.split(".")[0] for name in modules}
    assert packages.isdisjoint({"airflow", "torch", "numpy", "pandas", "pyarrow", "redis", "pymongo", "pydantic"})
    millrace_packages = {name for name in packages if name.startswith("include")}
    assert millrace_packages == {
        "include",
        "include.domain",
        "include.errors",
        "include.serving",
        "include.settings_parser",
    }


@pytest.mark.parametrize("url", ["", f"http://:{PASSWORD}@127.0.0.1/0", f"redis://:{PASSWORD}@127.0.0.1/zero"])
def test_an_invalid_setting_stops_it_immediately(url: str) -> None:
    """It exits with status 2 and a one-line error that names the setting but not the password."""
    environment = {**os.environ, "MILLRACE_REDIS_URL": url}
    command = (sys.executable, "-m", "include.serving")
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("error: MILLRACE_REDIS_URL")
    assert result.stderr.count("\n") == 1
    assert PASSWORD not in result.stderr
