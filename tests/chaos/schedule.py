"""Which faults fall when: a pure function of the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

#: Servers that a fault may kill or pause, with the seconds of rest that one needs between two faults: about twice
#: what it takes to recover. With less it would simply be down.
REST_S: Mapping[str, int] = {
    "kafka": 40, "mongo": 30, "milvus": 75, "neo4j": 50, "postgres": 30, "redis": 20, "embed": 50, "reader": 20,
    "scheduler": 60, "api-server": 60, "triggerer": 40, "dag-processor": 40,
}  # fmt: skip
#: Servers whose connections pass through a proxy.
PROXIED = ("kafka", "mongo", "milvus", "neo4j", "postgres", "redis", "embed")
_PROXY_FAULTS = ("reset", "black_hole", "delay")
#: Kinds that may fall on any server with a proxy.
SHARED_KINDS = (*_PROXY_FAULTS, "pause_server")

KINDS = (
    *(f"kill_{server}" for server in REST_S),
    "kill_task", "pause_server", "pause_task", *_PROXY_FAULTS, "second_run", "replay",
)  # fmt: skip


class Fault(NamedTuple):
    """One fault: it begins ``at`` seconds after the start and lasts ``seconds``; 0 for a kill or a run.

    ``target`` is a server, or empty if it is chosen when the fault falls. ``latency`` in seconds, for ``delay``.
    """

    at: float
    kind: str
    target: str = ""
    seconds: float = 0
    latency: float = 0


def plan(seed: int, seconds: float, every: float, kinds: Sequence[str] = KINDS) -> list[Fault]:
    """The faults of a run, by time: about one per ``every`` seconds, each kind once before any falls again.

    No server gets two faults within its rest. None begins in the last seconds of the run.
    """
    random = Random(seed)
    faults: list[Fault] = []
    free_at: dict[str, float] = {}
    deck: list[str] = []
    at = every * random.uniform(0.5, 1)
    while at < seconds - every / 2:
        if not deck:
            deck = random.sample(kinds, len(kinds))
        fault = next(filter(None, (_draw(random, kind, at, free_at) for kind in deck)), None)
        if fault is not None:
            deck.remove(fault.kind)
            faults.append(fault)
            if fault.target:
                free_at[fault.target] = at + fault.seconds + REST_S[fault.target]
        at += every * random.uniform(0.5, 1.5)
    return faults


def _draw(random: Random, kind: str, at: float, free_at: Mapping[str, float]) -> Fault | None:
    """A fault of this kind, or None if no server that it may hit has rested."""

    def rested(servers: Sequence[str]) -> list[str]:
        return [server for server in servers if free_at.get(server, 0) <= at]

    name, _, server = kind.partition("_")
    if name == "kill" and server in REST_S:
        return Fault(at, kind, server) if rested([server]) else None
    if kind == "pause_task":
        return Fault(at, kind, seconds=_pause(random))
    if kind in ("kill_task", "second_run", "replay"):
        return Fault(at, kind)
    targets = rested(list(REST_S) if kind == "pause_server" else PROXIED)
    if not targets:
        return None
    target = random.choice(targets)
    match kind:
        case "pause_server":
            return Fault(at, kind, target, seconds=_pause(random))
        case "reset":
            return Fault(at, kind, target, seconds=random.uniform(0.5, 3))
        case "black_hole":
            return Fault(at, kind, target, seconds=random.uniform(3, 20))
        case _:
            return Fault(at, kind, target, seconds=random.uniform(5, 20), latency=10 ** random.uniform(-1, 0.7))


def _pause(random: Random) -> float:
    """2 to 60 seconds, half of them less than 11."""
    return float(2 * 30 ** random.random())
