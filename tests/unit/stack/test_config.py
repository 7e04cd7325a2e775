"""Files, ports and paths of a local stack."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack.config import LOOPBACK, LocalConfig, display_path, find_free_ports, is_free


def test_a_used_port_is_not_free() -> None:
    """A port is taken while a process listens on it, and free again afterwards."""
    (port,) = find_free_ports(1)
    with socket.create_server((LOOPBACK, port)):
        assert not is_free(port)
    assert is_free(port)


def test_too_many_free_ports() -> None:
    """If no block of that size is free, the error says so and what to do."""
    with pytest.raises(ConfigurationError, match=r"no 12000 consecutive free ports .*: stop some servers"):
        find_free_ports(12_000)


def test_all_files_of_a_stack_are_in_its_home(tmp_path: Path) -> None:
    """Deleting the home deletes data, logs, records and batches."""
    config = LocalConfig(tmp_path, ports={}, heaps={})
    assert config.log("kafka") == config.logs / "kafka.log"
    assert config.batches == config.data("batches")
    for folder in (config.data("kafka"), config.run, config.logs, config.batches):
        assert folder.is_relative_to(tmp_path)


def test_paths_are_displayed_as_a_user_types_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path below the current folder is relative, any other path is absolute."""
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / "a" / "b") == "a/b"
    assert display_path(Path("/elsewhere/a")) == "/elsewhere/a"
