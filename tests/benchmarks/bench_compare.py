"""The comparison behind ``reconcile`` alone, without servers: events per second, and the peak memory of its process.

The four inventories are made up as they are read; every 1,000th event is missing from one of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))

from include.domain.inventory import inventory_table
from include.memory_servers import MemoryServers
from include.pipeline.compare import ComparedStore
from include.pipeline.reconcile import ReconcilePorts, Scope, reconcile
from tests.benchmarks.machine import describe_machine, print_rate, run_main
from tests.unit.pipeline.memory_stores import Files

_CHUNK = 10_000
_LOST = 1_000
_SHARDS = 4


class _MadeInventory:
    """Events 0 to ``events`` - 1, without every ``lost``-th one unless it is 0."""

    def __init__(self, events: int, lost: int = 0) -> None:
        self._events = events
        self._lost = lost

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        for start in range(0, self._events, _CHUNK):
            yield self._rows(range(start, min(start + _CHUNK, self._events)))

    def read(self, keys: pa.Table) -> pa.Table:
        return self._rows(int(event_id, 16) for event_id in keys["event_id"].to_pylist())

    def _rows(self, numbers: Any) -> pa.Table:
        kept = (number for number in numbers if not self._lost or number % self._lost)
        return inventory_table((f"{n:032x}", f"u{n % 100_000}", n, 0, f"{n:032x}", True, True) for n in kept)

    def close(self) -> None: ...


def compare(events: int) -> None:
    """One comparison. Fails if it does not find exactly the events that are missing."""
    full: Any = _MadeInventory(events)
    others = [_MadeInventory(events), _MadeInventory(events), _MadeInventory(events, _LOST)]
    stores = [ComparedStore("full", full, None, full)]
    stores += [ComparedStore(f"store {number}", each) for number, each in enumerate(others)]
    ports = ReconcilePorts(stores, MemoryServers().warehouse.ledger, Files())
    started = time.perf_counter()
    report = reconcile(Scope("bench", _SHARDS), ports)
    seconds = time.perf_counter() - started
    if (report.events, report.found) != (events, -(-events // _LOST)):
        raise SystemExit(f"{report.found:,} of {report.events:,} events differ")
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    peak = int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1024
    print_rate(f"compare {events:,}", events, seconds, "events")
    print(f"  peak memory {peak:,.0f} MB", flush=True)


def main() -> int:
    """Returns 1 if a comparison is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 400_000], help="(default: %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        compare(options.events[0])
        return 0
    print(describe_machine(), flush=True)
    commands = [[sys.executable, __file__, "--one", "--events", str(events)] for events in options.events]
    return max(subprocess.run(command, check=False).returncode for command in commands)


if __name__ == "__main__":
    run_main(main)
