"""What each local server is doing: the supervisor's word, its memory, and whether it answers."""

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
    """One server now. ``answers`` is true when it answered a real request just now."""

    name: str
    state: str
    pid: int
    port: int
    memory: int
    seconds: float
    answers: bool


def server_statuses(
    context: Context, states: Mapping[str, ProgramState], servers: Iterable[Server]
) -> list[ServerStatus]:
    """One row a server, in the order given; all are asked at the same time."""
    rows = list(servers)
    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(lambda server: _status(context, states.get(server.name), server), rows))


def _status(context: Context, state: ProgramState | None, server: Server) -> ServerStatus:
    port = context.config.ports[server.ports[0]] if server.ports else 0
    if state is None or not state.pid:
        word = state.state.lower() if state else "stopped"
        return ServerStatus(server.name, word, 0, port, 0, 0.0, False)
    memory = sum(proportional_memory(pid) for pid in family(context, server, state.pid))
    seconds = max(0.0, time.time() - state.started)
    return ServerStatus(server.name, state.state.lower(), state.pid, port, memory, seconds, _answers(context, server))


def _answers(context: Context, server: Server) -> bool:
    try:
        server.answers(context)
    except Exception:  # noqa: BLE001 - each driver has errors of its own, and all mean: it does not answer
        return False
    return True


def family(context: Context, server: Server, pid: int) -> set[int]:
    """The process of a server and all that it started."""
    import psutil

    found = {pid}
    record = records.read(context.config.run, server.name)
    if record is not None:
        found.update(record.members())
    with contextlib.suppress(psutil.Error):
        found.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return found


def proportional_memory(pid: int) -> int:
    """PSS in bytes: shared pages count for each process by its share. 0 when it cannot be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except OSError:
        return 0


def table(rows: Iterable[ServerStatus]) -> str:
    """The rows for a person, and the sum of their memory."""
    listed = list(rows)
    lines = [f"{'server':<14} {'state':<9} {'pid':>8} {'port':>6} {'memory':>9} {'up':>9}  answers"]
    lines += [_line(row) for row in listed]
    total = f"{sum(row.memory for row in listed) / 1e6:.0f} MB"
    lines.append(f"{'':<14} {'':<9} {'':>8} {'total':>6} {total:>9}")
    return "\n".join(lines)


def _line(row: ServerStatus) -> str:
    port, pid = row.port or "-", row.pid or "-"
    answers = "yes" if row.answers else "no"
    memory = f"{row.memory / 1e6:.0f} MB"
    return f"{row.name:<14} {row.state:<9} {pid:>8} {port:>6} {memory:>9} {_span(row.seconds):>9}  {answers}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
