"""``make chaos``: the whole stack under load while faults fall, and then every invariant. See docs/chaos.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from random import SystemRandom

from stack.config import PROJECT
from stack.interrupts import INTERRUPTED, handle_interrupts, raise_interrupt
from tests.chaos.cluster import refuse_marked, running_cluster
from tests.chaos.load import Shares
from tests.chaos.run import ChaosRun
from tests.chaos.schedule import KINDS
from tests.chaos.verdict import build_report, find_failures, format_table

REPORT = PROJECT / ".local" / "reports" / "chaos.json"


def main() -> int:
    options = _parse()
    handle_interrupts(raise_interrupt)
    keep: list[str] = []
    try:
        with running_cluster(options.shards, say, keep) as cluster:
            refuse_marked(cluster.settings)
            run = ChaosRun(cluster, options, say).execute()
            failures = find_failures(run)
            keep.extend(failures)
    except KeyboardInterrupt:
        say("interrupted: every process that this run started has been stopped")
        return INTERRUPTED
    print(format_table(run))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(build_report(run), indent=1) + "\n", encoding="utf-8")
    say(f"{run.events:,} events, {len(run.applied)} faults, seed {run.seed}; report in {REPORT}")
    for failure in failures:
        say(f"FAILED: {failure}")
    return 1 if failures else 0


def say(line: str) -> None:
    """One line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=900, help="how long load and faults last (900)")
    parser.add_argument("--seed", type=int, default=None, help="the same seed plans the same load and faults")
    parser.add_argument("--rate", type=float, default=100, help="messages per second (100)")
    parser.add_argument("--every", type=float, default=30, help="mean seconds between two faults (30)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="the kinds of faults, separated by commas")
    parser.add_argument("--shards", type=int, default=2, help="number of shards (2)")
    parser.add_argument("--poison", type=float, default=Shares.poison, help="share of poison messages (0.01)")
    parser.add_argument("--refused", type=float, default=Shares.refused, help="share that a store refuses (0.0002)")
    parser.add_argument("--no-replay", dest="replay", action="store_false", help="do not check the replay at the end")
    options = parser.parse_args(arguments)
    options.kinds = options.kinds.split(",")
    unknown = sorted(set(options.kinds) - set(KINDS))
    if unknown:
        parser.error(f"unknown kinds: {', '.join(unknown)}; known are {', '.join(KINDS)}")
    if options.seed is None:
        options.seed = SystemRandom().randrange(1_000_000)
    return options


if __name__ == "__main__":
    sys.exit(main())
