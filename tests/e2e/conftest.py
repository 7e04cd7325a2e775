"""A whole stack of its own, started once: every server, Airflow and the reader, on free ports in a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.config import LocalConfig
from stack.stack import Stack
from tests.e2e.system import System

#: Two shards: enough to run side by side, and half the tasks of four.
SHARDS = 2
#: Lists this short are made again by every precompute, so that none is left from when half of the events were there.
VARIABLES = {"AIRFLOW_VAR_MILLRACE_LIST_TTL_MINUTES": "6"}


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """The running system, empty."""
    # Not pytest's own folder: PostgreSQL may run as another user, who has to be able to enter.
    home = Path(tempfile.mkdtemp(prefix="millrace-e2e-"))
    config = LocalConfig.with_free_ports(home, {"MILLRACE_SHARDS": str(SHARDS)}, VARIABLES)
    stack = Stack(config)
    try:
        stack.up()
        system = System(stack)
        yield system
        system.close()
    finally:
        stack.reset()
        shutil.rmtree(home, ignore_errors=True)
