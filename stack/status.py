"""The status of each local server: its supervisor state, its memory, and whether it is healthy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stack import records
from stack.server import Context, Server
from stack.supervise import ProgramState


@dataclass(frozen=True)
class ServerStatus:
    """One server now; ``healthy`` is the result of a real request."""

    name: str
    state: str
    pid: int
    port: int
    memory: int
    seconds: float
    healthy: bool


def read_statuses(
    context: Context, states: Mapping[str, ProgramState], servers: Iterable[Server]
) -> list[ServerStatus]:
    """One row per server, in the given order; all are checked in parallel."""
    rows = list(servers)
    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(lambda server: _read_status(context, states.get(server.name), server), rows))


def _read_status(context: Context, state: ProgramState | None, server: Server) -> ServerStatus:
    port = context.config.ports[server.main_port] if server.main_port else 0
    if state is None or not state.pid:
        label = state.state.lower() if state else "stopped"
        return ServerStatus(server.name, label, 0, port, 0, 0.0, False)
    memory = sum(read_pss(pid) for pid in list_process_tree(context, server, state.pid))
    seconds = max(0.0, time.time() - state.started_at)
    healthy = _is_healthy(context, server)
    return ServerStatus(server.name, state.state.lower(), state.pid, port, memory, seconds, healthy)


def _is_healthy(context: Context, server: Server) -> bool:
    try:
        server.check_health(context)
    except Exception:  # noqa: BLE001 - each driver has its own errors, and all of them mean: not healthy
        return False
    return True


def list_process_tree(context: Context, server: Server, pid: int) -> set[int]:
    """The process of a server and all its descendants."""
    import psutil

    pids = {pid}
    record = records.read_record(context.config.run, server.name)
    if record is not None:
        pids.update(record.members())
    with contextlib.suppress(psutil.Error):
        pids.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return pids


def read_pss(pid: int) -> int:
    """PSS in bytes: every process counts its share of shared pages. 0 if it cannot be read."""
    import psutil

    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return 0
    # Only Linux has PSS; USS, elsewhere, leaves out shared pages.
    return int(getattr(memory, "pss", memory.uss))


def format_table(rows: Iterable[ServerStatus]) -> str:
    """The rows as a table with the total memory."""
    rows = list(rows)
    lines = [f"{'server':<14} {'state':<9} {'pid':>8} {'port':>6} {'memory':>9} {'up':>9}  healthy"]
    lines += [_format_row(row) for row in rows]
    total = f"{sum(row.memory for row in rows) / 1e6:.0f} MB"
    lines.append(f"{'':<14} {'':<9} {'':>8} {'total':>6} {total:>9}")
    return "\n".join(lines)


def _format_row(row: ServerStatus) -> str:
    port, pid = row.port or "-", row.pid or "-"
    healthy = "yes" if row.healthy else "no"
    memory = f"{row.memory / 1e6:.0f} MB"
    return f"{row.name:<14} {row.state:<9} {pid:>8} {port:>6} {memory:>9} {_format_duration(row.seconds):>9}  {healthy}"


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
