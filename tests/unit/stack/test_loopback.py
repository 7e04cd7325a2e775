"""A server that would listen on every interface is restricted to loopback."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys

import pytest

from stack import loopback
from stack.config import LOOPBACK

PORT = 19630


def ipv4(host: str) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", PORT) + socket.inet_aton(host) + bytes(8)


def ipv6(host: str) -> bytes:
    head = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", PORT, 0)
    return head + socket.inet_pton(socket.AF_INET6, host) + struct.pack("=I", 7)


def test_the_wildcard_address_becomes_loopback() -> None:
    """The port and all other fields are unchanged."""
    assert loopback.loopback_address(ipv4("0.0.0.0")) == ipv4(LOOPBACK)


def test_the_wildcard_address_of_both_families() -> None:
    """The socket stays reachable at 127.0.0.1, where its clients connect."""
    assert loopback.loopback_address(ipv6("::")) == ipv6(f"::ffff:{LOOPBACK}")


@pytest.mark.parametrize(
    "address",
    [
        ipv4("127.0.0.1"),
        ipv4("192.0.2.7"),
        ipv6("::1"),
        ipv6("2001:db8::7"),
        struct.pack("=H", socket.AF_UNIX) + bytes(14),
        struct.pack("=H", socket.AF_INET),
        ipv6("::")[:20],
        b"",
    ],
)
def test_other_addresses_are_unchanged(address: bytes) -> None:
    """A specific interface, a Unix socket or a truncated address is left to the kernel."""
    assert loopback.loopback_address(address) is None


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", loopback.__file__, sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("family", "host"), [("AF_INET", LOOPBACK), ("AF_INET6", f"::ffff:{LOOPBACK}")])
def test_a_command_is_restricted_to_loopback(family: str, host: str) -> None:
    """It binds the wildcard address and gets a loopback address."""
    if family == "AF_INET6" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    bind = f"import socket; s = socket.socket(socket.{family}); s.bind(('', 0)); print(s.getsockname()[0])"
    done = run(bind)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("warning: cannot restrict"):
        pytest.skip("the kernel does not allow it")
    assert done.stdout.strip() == host


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_status_is_passed_on(code: str, status: int) -> None:
    """The supervisor sees whether the server exited or was killed by a signal."""
    assert run(code).returncode == status


def test_signals_are_forwarded() -> None:
    """The server itself receives a stop signal and can shut down cleanly."""
    handle = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(3))"
    code = f"{handle}; print('ready', flush=True); time.sleep(60)"
    command = [sys.executable, "-I", "-S", loopback.__file__, sys.executable, "-I", "-S", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 3


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
