"""A complete stack for the tests, started once: every server, Airflow and the reader, on free ports."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.installation import config_on_free_ports
from stack.stack import Stack
from tests.e2e.system import System

#: Two shards: enough to run in parallel, with half as many tasks as four.
SHARDS = 2
#: With such a short TTL every precompute rebuilds every list, so no list remains from before all events had arrived.
VARIABLES = {"AIRFLOW_VAR_MILLRACE_LIST_TTL_MINUTES": "6"}


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """Yield the running, empty system."""
    # Not pytest's tmp_path: PostgreSQL may run as another user, who must be able to enter the folder.
    home = Path(tempfile.mkdtemp(prefix="millrace José Ñ "))
    config = config_on_free_ports(home, {"MILLRACE_SHARDS": str(SHARDS)}, VARIABLES)
    stack = Stack(config)
    try:
        stack.up()
        system = System(stack)
        yield system
        system.close()
    finally:
        stack.reset()
        shutil.rmtree(home, ignore_errors=True)
