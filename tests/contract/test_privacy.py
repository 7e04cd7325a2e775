"""What other users of the machine can see of the running servers: nothing."""

from __future__ import annotations

import os

import pytest

from stack import records
from stack.stack import Stack
from tests.contract.conftest import Servers
from tests.contract.privacy import (
    list_exposed_paths,
    list_exposed_secrets,
    list_open_addresses,
    list_paths_readable_by_a_stranger,
)

#: Those that the other suites start too. tests/e2e makes the same checks with Airflow.
pytestmark = pytest.mark.servers("kafka", "milvus", "mongo", "neo4j", "postgres", "redis")


@pytest.fixture
def running(servers: Servers) -> Stack:
    """The stack that all suites share, with every server that they need."""
    servers.environment("postgres")
    return servers.stack


def test_nothing_is_open_to_others(running: Stack) -> None:
    """Every folder and file that the servers have written belongs to one user, and only that user can read it."""
    assert len(records.read_all(running.config.run)) > 6
    assert list_exposed_paths(running) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_stranger_reads_nothing(running: Stack) -> None:
    """Another user of the machine can list no folder and open no file, even if it knows all their names."""
    assert list_paths_readable_by_a_stranger(running) == []


def test_no_process_has_a_secret_in_its_arguments(running: Stack) -> None:
    """Every user can see the arguments of all processes."""
    assert list_exposed_secrets(running) == []


def test_every_server_listens_on_loopback_only(running: Stack) -> None:
    """No process of the stack accepts connections from other machines."""
    assert list_open_addresses(running) == []
