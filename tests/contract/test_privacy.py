"""What other users of the machine can see of the running servers: nothing."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import pytest

from stack import records
from stack.servers import postgres
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_data_outside_the_home_is_private_too(stack: Stack) -> None:
    """If PostgreSQL's user cannot reach the home, its data is elsewhere: closed to everyone else, deleted by reset."""
    (stack.config.home / "closed").mkdir(mode=0o700)
    closed = Stack(replace(stack.config, home=stack.config.home / "closed" / "home"), stack.report)
    data = postgres.data_root(closed.config)
    assert not data.is_relative_to(closed.config.home)
    with closed:
        closed.up(["postgres"])
        assert (data / "data").exists()
        assert stat.S_IMODE(closed.config.home.stat().st_mode) == 0o700
        assert list_exposed_paths(closed) == []
        assert list_paths_readable_by_a_stranger(closed) == []
        closed.reset()
    assert not data.exists()
