"""Rebuild three stores from MongoDB, then compare all four: seconds, and the peak memory of each command's process.

Every text has a random vector beforehand, so that no embedding server is needed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import batched
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from demo.screen import Screen
from include import bootstrap, reconciliation
from include.domain.batch import BatchRef, Record, StagedBatch, events_table
from include.domain.precedence import select_winners
from include.pipeline.rebuild import Position, rebuild
from include.pipeline.reconcile import Scope
from include.settings import EnvironmentSettings
from tests.benchmarks import rows, steps
from tests.benchmarks.machine import Results, describe_machine, print_rate, run_main, temporary_stack

_SERVERS = ("postgres", "mongo", "milvus", "neo4j")
_TARGETS = ("warehouse", "neo4j", "milvus")
_BATCH = 20_000


def fill_mongo(settings: EnvironmentSettings, lines: list[bytes]) -> None:
    """Store the events in MongoDB, and a random vector for each text in the warehouse."""
    with closing(bootstrap.open_sink("mongo", settings)) as sink:
        for chunk in batched(rows.events(lines), _BATCH):
            table = events_table((Record(0, 0, 0, None, None), event) for event in chunk)
            sink.upsert(StagedBatch(BatchRef("bench", 0, 0, 0), select_winners(table)))
    texts = {event.text for event in rows.events(lines) if event.text is not None}
    steps.store_random_vectors(settings, sorted(texts))  # type: ignore[arg-type]


def run_rebuild(settings: EnvironmentSettings, target: str) -> int:
    """Fill one store from MongoDB. Returns the number of events."""
    position = Position(bootstrap.open_files(settings), target)
    with (
        reconciliation.open_contents("mongo", settings) as contents,
        reconciliation.open_write_ports([target], settings) as ports,
    ):
        return rebuild(contents, [target], ports, position)


def run_reconcile(settings: EnvironmentSettings, _: str) -> int:
    """Compare all stores. Returns the number of events, and fails if any differs."""
    report = reconciliation.reconcile_stores(settings, Scope("bench", settings.pipeline.shards))
    if report.found or report.in_flight:
        raise SystemExit(f"{report.found:,} events differ")
    return report.events


_STEPS: dict[str, Callable[[EnvironmentSettings, str], int]] = {"rebuild": run_rebuild, "reconcile": run_reconcile}


def run_step(name: str, target: str) -> int:
    """One command, in a process of its own, whose peak memory counts."""
    started = time.perf_counter()
    events = _STEPS[name](EnvironmentSettings(os.environ), target)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    peak = int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1024
    print_rate(f"{name} {target}".strip(), events, seconds, "events")
    print(f"  peak memory {peak:,.0f} MB")
    return 0


def main() -> int:
    """Returns 1 if the stores differ after the rebuild."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000, help="lines of input (default: %(default)s)")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        return run_step(*options.step)
    screen, results = Screen(), Results()
    with temporary_stack(screen, *_SERVERS) as stack:
        environment = {**os.environ, **stack.environment()}
        lines = rows.lines(options.events)
        print(f"{options.events:,} lines of {rows.label()}; {describe_machine()}")
        fill_mongo(EnvironmentSettings(environment), lines)
        for step in (*(["rebuild", target] for target in _TARGETS), ["reconcile", ""]):
            sys.stdout.flush()
            command = [sys.executable, __file__, "--step", *step]
            if subprocess.run(command, env=environment, check=False).returncode:
                results.fail(" ".join(step))
    return results.exit_code()


if __name__ == "__main__":
    run_main(main)
