"""Checks that the servers listen on the loopback interface only, whatever their configuration says.

See docs/adr/0011.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection

from stack import records
from stack.server import Context, Server, ServerError
from stack.status import list_process_tree


def reject_open_addresses(context: Context, server: Server) -> None:
    """Raise ``ServerError`` if a process of this server listens where other machines can reach it."""
    config = context.config
    record = records.read_record(config.run, server.name)
    if record is None or config.allow_open_ports:
        return
    pids = list_process_tree(context, server, record.pid)
    addresses = find_open_addresses(pids, [config.ports[name] for name in server.ports])
    if addresses:
        raise ServerError(
            f"{server.name} listens on {', '.join(addresses)}, where other machines can reach it, so the stack does "
            "not run it: to run it anyway, set MILLRACE_ALLOW_OPEN_PORTS=true"
        )


def find_open_addresses(pids: Collection[int], ports: Collection[int]) -> list[str]:
    """The addresses outside the loopback interface on which these processes accept TCP connections.

    If this user may not look into one of them, the addresses of any process on these ports instead.
    """
    import psutil

    sockets: list[tuple[str, int, str]] = []
    try:
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                own = psutil.Process(pid).net_connections("tcp")
                sockets += [(socket.laddr.ip, socket.laddr.port, socket.status) for socket in own if socket.laddr]
    except psutil.AccessDenied:
        # In a container, root may lack the right to look into PostgreSQL's processes.
        everyone = psutil.net_connections("tcp")
        sockets = [(socket.laddr.ip, socket.laddr.port, socket.status) for socket in everyone if socket.laddr]
        sockets = [(host, port, status) for host, port, status in sockets if port in ports]
    listening = {(host, port) for host, port, status in sockets if status == psutil.CONN_LISTEN}
    return sorted(f"{host}:{port}" for host, port in listening if not _is_loopback(host))


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
