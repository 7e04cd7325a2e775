"""What other users of the machine can see of the whole system, after it has processed events: nothing."""

from __future__ import annotations

import os

import pytest

from tests.contract.privacy import (
    list_exposed_paths,
    list_exposed_secrets,
    list_open_addresses,
    list_paths_readable_by_a_stranger,
)
from tests.e2e.system import System


def test_nothing_is_open_to_others(system: System) -> None:
    """Every folder and file is private, including Airflow's home, its tasks' logs and the files between tasks."""
    assert list(system.stack.config.home.glob("airflow/logs/dag_id=*"))
    assert list_exposed_paths(system.stack) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_stranger_reads_nothing(system: System) -> None:
    """Another user of the machine can list no folder and open no file, even if it knows all their names."""
    assert list_paths_readable_by_a_stranger(system.stack) == []


def test_no_process_has_a_secret_in_its_arguments(system: System) -> None:
    """Every user can see the arguments of all processes, including those of Airflow's tasks."""
    assert list_exposed_secrets(system.stack) == []


def test_every_server_listens_on_loopback_only(system: System) -> None:
    """No process of the system accepts connections from other machines."""
    assert list_open_addresses(system.stack) == []
