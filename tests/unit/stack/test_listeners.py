"""Which sockets of a server other machines could reach."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stack.config import PROJECT
from stack.listeners import find_open_addresses

NOBODY = 61_234

#: Whether another user finds the address of a process that it may not look into.
AS_ANOTHER_USER = f"""
import os, sys
import psutil
from stack.listeners import find_open_addresses
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
print(*find_open_addresses([int(sys.argv[1])], [int(sys.argv[2])]))
"""


@contextmanager
def listening(family: socket.AddressFamily, host: str) -> Iterator[int]:
    """A socket of this process. Yields its port."""
    try:
        with socket.socket(family) as server:
            server.bind((host, 0))
            server.listen()
            yield server.getsockname()[1]
    except OSError:
        pytest.skip(f"this machine has no {host}")


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::ffff:127.0.0.1")],
)
def test_a_loopback_address_is_not_open(family: socket.AddressFamily, host: str) -> None:
    """Only this machine reaches it, in either family, including IPv4 addresses on an IPv6 socket."""
    with listening(family, host):
        assert find_open_addresses([os.getpid()], []) == []


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
def test_a_wildcard_address_is_open(family: socket.AddressFamily, host: str) -> None:
    """It is found on any port, whether or not the server has declared that port."""
    with listening(family, host) as port:
        assert find_open_addresses([os.getpid()], []) == [f"{host}:{port}"]


def test_a_socket_of_a_child_is_found() -> None:
    """A server may listen in another process than its main one; a process that has ended has no sockets."""
    program = "import socket; s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        port = child.stdout.readline().strip()
        assert find_open_addresses([os.getpid(), child.pid], []) == [f"0.0.0.0:{port}"]
        child.communicate("\n")
    assert find_open_addresses([child.pid], []) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_that_hides_its_sockets_is_checked_by_its_ports() -> None:
    """If the user may not look into a process, any listener on the server's ports counts."""
    with listening(socket.AF_INET, "0.0.0.0") as port:
        command = [sys.executable, "-c", AS_ANOTHER_USER, str(os.getpid()), str(port)]
        found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60)
        assert found.stdout.split() == [f"0.0.0.0:{port}"]
