"""Check random histories of a shard in memory (tests/unit/pipeline/histories.py), many more than the tests do."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pool

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.unit.pipeline.histories import (
    MESSAGES,
    OVERLAPPING_STEPS,
    SERIAL_STEPS,
    Pipeline,
    Step,
    check_overlapping,
    check_serial,
)

type Check = Callable[[list[bytes], list[Step]], Pipeline]

#: Histories of one kind between two lines of progress.
CHUNK = 1_000
_SETTINGS = settings(
    max_examples=CHUNK, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


def check_chunk(check: Check, steps: st.SearchStrategy[list[Step]], random_seed: int) -> int:
    """Check ``CHUNK`` random histories, or fewer if no more differ. Returns how many.

    Raises ``AssertionError`` with the shortest history that it finds for a failure.
    """
    checked = 0

    def run(messages: list[bytes], history: list[Step]) -> None:
        nonlocal checked
        checked += 1
        check(messages, history)

    seed(random_seed)(_SETTINGS(given(messages=MESSAGES, history=steps)(run)))()
    return checked


def check_seed(random_seed: int) -> int:
    """Check one chunk; odd seeds give overlapping runs, even ones runs that follow each other."""
    kinds: Sequence[tuple[Check, st.SearchStrategy[list[Step]]]] = (
        (check_serial, SERIAL_STEPS),
        (check_overlapping, OVERLAPPING_STEPS),
    )
    return check_chunk(*kinds[random_seed % 2], random_seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Check chunks on every core until there were enough histories, or one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="how many histories (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the same seed gives the same histories")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    checked, begin = 0, time.monotonic()
    with Pool(options.jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        # A chunk may have fewer different histories than CHUNK.
        seeds = range(options.seed, options.seed + 10 * (options.count // CHUNK + 1))
        for chunk, histories in enumerate(pool.imap(check_seed, seeds)):
            checked += histories
            rate = checked / (time.monotonic() - begin)
            print(
                f"{checked:,} of {options.count:,} histories, {rate:.0f}/s, seeds {options.seed} to "
                f"{options.seed + chunk}: every store converged",
                flush=True,
            )
            if checked >= options.count:
                break


if __name__ == "__main__":
    main()
