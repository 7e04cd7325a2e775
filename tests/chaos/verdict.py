"""What a chaos run concludes: the table, the report, and the reasons to fail."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.injector import Applied
from tests.chaos.observations import INVARIANTS, Violations

#: The recovery time of Milvus is not part of the promise: it needs tens of seconds to start.
_SLOW_SERVER = "milvus"


@dataclass(frozen=True)
class Run:
    """The facts of one run. ``progress``: (time, sum of the ledger's positions) whenever it rose; times in seconds of
    one clock. ``given_up``: servers that the supervisor no longer restarts. ``converge_seconds`` None: it did not.
    """

    seed: int
    seconds: float
    events: int
    min_events: int
    applied: Sequence[Applied]
    progress: Sequence[tuple[float, int]]
    converge_seconds: float | None
    left: str
    violations: Violations
    given_up: Sequence[str] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


def count_faults(applied: Sequence[Applied]) -> tuple[dict[str, int], dict[str, int]]:
    """By kind: how many faults fell, and how many of them met work in flight."""
    fell = Counter(one.fault.kind for one in applied if not one.failed)
    hits = Counter(one.fault.kind for one in applied if one.hit and not one.failed)
    return dict(sorted(fell.items())), {kind: hits[kind] for kind in sorted(fell)}


def recovery_seconds(applied: Sequence[Applied], progress: Sequence[tuple[float, int]]) -> dict[str, list[float]]:
    """By kind, the seconds from the end of each fault until the ledger next moved; a run's last faults may have none.

    Faults of Milvus have kinds of their own.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for one in applied:
        after = next((at for at, _ in progress if at > one.ended), None)
        if after is not None and not one.failed and one.fault.kind not in ("second_run", "replay"):
            kind = f"{one.fault.kind}:{_SLOW_SERVER}" if one.target == _SLOW_SERVER else one.fault.kind
            times[kind].append(after - one.ended)
    return dict(times)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below this share of them."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def find_failures(run: Run) -> list[str]:
    """The reasons why the run fails; empty if it passed."""
    fell, hits = count_faults(run.applied)
    missed = [kind for kind, count in hits.items() if not count]
    broken = {number: count for number, count in run.violations.counts.items() if count}
    failed = [f"{one.fault.kind} ({one.failed})" for one in run.applied if one.failed]
    reasons = {
        f"invariants {', '.join(map(str, broken))} are violated": broken,
        f"it did not converge: {run.left}": run.converge_seconds is None,
        f"only {run.events:,} events flowed, fewer than {run.min_events:,}": run.events < run.min_events,
        "no fault fell": not fell,
        f"these faults never met work in flight: {', '.join(missed)}": missed,
        f"these faults could not be applied: {', '.join(failed)}": failed,
        f"the supervisor gave up on {', '.join(run.given_up)}": run.given_up,
    }
    return [reason for reason, holds in reasons.items() if holds]


def build_report(run: Run) -> dict[str, Any]:
    """The content of ``.local/reports/chaos.json``."""
    fell, hits = count_faults(run.applied)
    recovery = recovery_seconds(run.applied, run.progress)
    others = [value for kind, values in recovery.items() if not kind.endswith(_SLOW_SERVER) for value in values]
    return {
        "seed": run.seed,
        "faults": fell,
        "hits_in_flight": hits,
        "events": run.events,
        "violations": {str(number): count for number, count in run.violations.counts.items()},
        "converge_seconds": None if run.converge_seconds is None else round(run.converge_seconds, 1),
        "seconds": run.seconds,
        "failures": find_failures(run),
        "details": list(run.violations.details),
        "unchecked": {str(number): why for number, why in run.violations.unchecked.items()},
        "recovery_p95_seconds": {kind: round(percentile(values, 0.95), 1) for kind, values in sorted(recovery.items())},
        "recovery_p95_seconds_without_milvus": round(percentile(others, 0.95), 1) if others else None,
        **run.notes,
    }


def format_table(run: Run) -> str:
    """The invariants, the faults and their recovery times, for people."""
    fell, hits = count_faults(run.applied)
    recovery = recovery_seconds(run.applied, run.progress)
    lines = [f"{'':>3} {'violations':>10}  invariant"]
    for number, name in INVARIANTS.items():
        count = run.violations.counts.get(number)
        lines.append(f"{number:>3} {'unchecked' if count is None else f'{count:,}':>10}  {name}")
    lines += [f"    {detail}" for detail in run.violations.details]
    lines += ["", f"{'fault':<22} {'n':>4} {'in flight':>9} {'recovery p95':>13}"]
    for kind, count in fell.items():
        values = [value for name, some in recovery.items() if name.partition(":")[0] == kind for value in some]
        p95 = f"{percentile(values, 0.95):.1f} s" if values else "-"
        lines.append(f"{kind:<22} {count:>4} {hits[kind]:>9} {p95:>13}")
    return "\n".join(lines)
