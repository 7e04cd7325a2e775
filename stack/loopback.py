"""Restricts a server that would listen on every interface to loopback: ``python -I -S loopback.py COMMAND...``.

Milvus has a setting for the ports it listens on, but none for the address. The kernel hands each ``bind`` of the
command to this process (seccomp user notification; Linux 5.5 or later, no privileges needed), which replaces the
wildcard address with 127.0.0.1 and lets the call continue. If the kernel refuses, the command runs unrestricted, with a
warning. Signals are forwarded, and the exit status is that of the command. Standard library only. See docs/adr/0011.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys

#: By machine: the audit architecture, and the system call numbers of seccomp(2) and bind(2).
_SYSTEMS = {"x86_64": (0xC000003E, 317, 49), "aarch64": (0xC00000B7, 277, 200)}

_PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG = 38, 1
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RET_ALLOW, _RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
_NOTIF_RECV, _NOTIF_SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06

_ANY4, _LOOPBACK4 = bytes(4), bytes([127, 0, 0, 1])
_ANY6, _LOOPBACK6 = bytes(16), bytes(10) + b"\xff\xff" + _LOOPBACK4


def loopback_address(address: bytes) -> bytes | None:
    """The same socket address on the loopback interface; None unless it is a wildcard address."""
    family = struct.unpack_from("=H", address)[0] if len(address) >= 8 else socket.AF_UNSPEC
    if family == socket.AF_INET and address[4:8] == _ANY4:
        return address[:4] + _LOOPBACK4 + address[8:]
    if family == socket.AF_INET6 and address[8:24] == _ANY6:
        # The IPv4-mapped form: a wildcard socket serves both families, and the clients connect to 127.0.0.1.
        return address[:8] + _LOOPBACK6 + address[24:]
    return None


def _build_filter(audit_arch: int, bind: int) -> bytes:
    """A seccomp program that notifies on bind and allows everything else."""
    steps = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 0, 3, audit_arch),
        (_LOAD, 0, 0, 0),
        (_JUMP_EQUAL, 0, 1, bind),
        (_RETURN, 0, 0, _RET_USER_NOTIF),
        (_RETURN, 0, 0, _RET_ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _install() -> int:
    """Install the filter for this process and its children. Returns the notification descriptor; raises ``OSError``."""
    system = _SYSTEMS.get(platform.machine())
    if sys.platform != "linux" or system is None:
        raise OSError(f"not supported for {sys.platform} on {platform.machine()}")
    audit_arch, seccomp, bind = system
    libc = ctypes.CDLL(None, use_errno=True)
    program = _build_filter(audit_arch, bind)
    buffer = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    descriptor = libc.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, header)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)


def _run_command(command: list[str], channel: socket.socket) -> None:
    try:
        descriptor = _install()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        channel.sendmsg([b"f"], [rights])
        os.close(descriptor)
    except OSError as exc:
        print(f"warning: cannot restrict {command[0]} to the loopback interface: {exc}", flush=True)
    channel.close()
    os.execv(command[0], command)  # noqa: S606 (no shell is intended)


def _receive_descriptor(channel: socket.socket) -> int | None:
    message, ancillary, *_ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    if not message or not ancillary:
        return None
    descriptors = array.array("i")
    descriptors.frombytes(ancillary[0][2][:4])
    return int(descriptors[0])


def _handle_bind(descriptor: int) -> None:
    """Receive one notification, fix the address in the caller's memory and let the call continue."""
    notification = bytearray(80)
    fcntl.ioctl(descriptor, _NOTIF_RECV, notification)
    identity, pid = struct.unpack_from("=QI", notification)
    pointer, length = struct.unpack_from("=QQ", notification, 40)
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(pointer)
        replacement = loopback_address(memory.read(min(length, 128)))
        if replacement is not None:
            memory.seek(pointer)
            memory.write(replacement)
    fcntl.ioctl(descriptor, _NOTIF_SEND, struct.pack("=QqiI", identity, 0, 0, _CONTINUE))


def _serve(descriptor: int | None, child: int) -> int:
    """Handle notifications until the command ends. Returns its exit status."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if descriptor is not None and ready.get(descriptor, 0) & select.POLLIN:
            with contextlib.suppress(OSError):
                _handle_bind(descriptor)
        elif ended in ready:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(command: list[str]) -> None:
    parent_end, child_end = socket.socketpair()
    child = os.fork()
    if child == 0:
        parent_end.close()
        _run_command(command, child_end)
    child_end.close()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, lambda number, _: os.kill(child, number))
    status = _serve(_receive_descriptor(parent_end), child)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main(sys.argv[1:])
