"""``make chaos``: the whole stack under load while faults fall, and then every invariant. See docs/chaos.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from random import SystemRandom

from demo.watch import PRECOMPUTE
from include.errors import MillraceError
from stack.config import PROJECT
from stack.interrupts import INTERRUPTED, handle_interrupts, raise_interrupt
from tests.chaos.checker import check, check_replay
from tests.chaos.cluster import Cluster, refuse_poison, running_cluster
from tests.chaos.injector import Injector
from tests.chaos.load import Load, Shares, is_poison
from tests.chaos.observations import Observations, Violations, not_poison
from tests.chaos.publishing import TICK_S, SteadyPublisher
from tests.chaos.schedule import KINDS, plan
from tests.chaos.settling import Settling
from tests.chaos.verdict import Run, build_report, find_failures, format_table
from tests.chaos.watch import ListWatch, OffsetWatch, Poll, poll_lists, poll_offsets

REPORT = PROJECT / ".local" / "reports" / "chaos.json"
CONVERGE_S = 300
_PROGRESS_S = 10
#: A run in which less of the load is ingested than this has proved too little.
_MIN_SHARE = 0.5
_EVERYTHING = {"from": 0}


def main() -> int:
    options = _parse()
    handle_interrupts(raise_interrupt)
    keep: list[str] = []
    try:
        with running_cluster(options.shards, say, keep) as cluster:
            if options.refuse_poison:
                refuse_poison(cluster.settings)
            run = ChaosRun(cluster, options).execute()
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


class ChaosRun:
    """One run on a cluster that is up."""

    def __init__(self, cluster: Cluster, options: argparse.Namespace) -> None:
        self._cluster = cluster
        self._options = options
        shares = Shares(poison=options.poison)
        self._load = Load(options.seed, options.shards, shares)
        self._faults = plan(options.seed, options.seconds, options.every, options.kinds)
        self._reported_at = 0.0
        self._given_up: set[str] = set()

    def execute(self) -> Run:
        """Load and faults, then the wait, the checks and the replay."""
        settings = self._cluster.settings
        with ExitStack() as stack:
            offsets = stack.enter_context(closing(OffsetWatch(settings, self._options.shards)))
            lists = stack.enter_context(
                closing(ListWatch(self._cluster.environment["MILLRACE_READER_URL"], self._load.known_users))
            )
            settling = stack.enter_context(closing(Settling(self._cluster)))
            publisher = SteadyPublisher(settings.kafka, self._load, self._options.rate)
            injector = Injector(self._cluster, offsets, self._options.seed, self._cluster.config.logs)
            stack.callback(injector.stop)
            stack.enter_context(poll_offsets(offsets))
            stack.enter_context(poll_lists(lists))
            say(f"seed {self._options.seed}: {len(self._faults)} faults in {self._options.seconds:.0f} s")

            def progress() -> None:
                self._report(publisher, offsets, injector)

            with Poll("publisher", TICK_S, publisher.poll):
                began = time.monotonic()
                injector.run(self._faults, progress)
                while time.monotonic() - began < self._options.seconds:
                    progress()
                    time.sleep(0.5)
                injector.finish(progress)  # the last faults may still be waiting for work
            publisher.finish()
            say("the faults have stopped")
            converged = settling.wait(CONVERGE_S, progress)
            say("not converged: " + settling.left if converged is None else f"converged after {converged:.0f} s")
            left = settling.left
            violations = self._check(offsets, lists, publisher, settling, converged is not None)
            notes = {
                "published": publisher.classes,
                "unacknowledged": publisher.unknown,
                "served": lists.versions.served.reads,
                "served_failed": lists.failed,
                "served_5xx": lists.server_errors,
            }
            events = sum(publisher.acknowledged.values())
            expected = int(self._options.rate * self._options.seconds * _MIN_SHARE)
            return Run(
                self._options.seed, self._options.seconds, min(events, offsets.committed), expected,
                injector.applied, offsets.progress, converged, left, violations, sorted(self._given_up), notes,
            )  # fmt: skip

    def _check(
        self, offsets: OffsetWatch, lists: ListWatch, publisher: SteadyPublisher, settling: Settling, converged: bool
    ) -> Violations:
        is_refused = is_poison if self._options.refuse_poison else not_poison
        observations = Observations(
            list(offsets.samples), lists.versions.served, dict(publisher.acknowledged), is_refused, converged
        )
        if not converged:
            return Violations({11: 1}, [f"not converged: {settling.left}"], {})
        say(f"{PRECOMPUTE}: {settling.run_dag(PRECOMPUTE, {}, CONVERGE_S)}")
        settling.wait(CONVERGE_S, lambda: None)
        say("checking")
        violations = check(self._cluster.settings, observations)
        if self._options.replay:
            say("replaying everything")
            violations = violations.merge(check_replay(self._cluster.settings, lambda: self._replay(settling)))
        return violations

    def _replay(self, settling: Settling) -> None:
        state = settling.run_dag("replay", _EVERYTHING, CONVERGE_S)
        if state != "success":
            raise MillraceError(f"the replay ended as {state}")
        settling.wait(CONVERGE_S, lambda: None)

    def _report(self, publisher: SteadyPublisher, offsets: OffsetWatch, injector: Injector) -> None:
        if time.monotonic() - self._reported_at < _PROGRESS_S:
            return
        self._reported_at = time.monotonic()
        self._given_up.update(self._cluster.find_given_up())
        hits = sum(one.hit for one in injector.applied)
        latest = ", ".join(f"{one.fault.kind}{'!' if one.hit else ''}" for one in injector.applied[-3:])
        given_up = f"; given up: {', '.join(sorted(self._given_up))}" if self._given_up else ""
        say(
            f"sent {publisher.sent:,}, committed {offsets.committed:,}, open {sum(offsets.open_batches.values())}, "
            f"faults {len(injector.applied)} ({hits} in flight) {latest}{given_up}"
        )


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=900, help="how long load and faults last (900)")
    parser.add_argument("--seed", type=int, default=None, help="the same seed plans the same load and faults")
    parser.add_argument("--rate", type=float, default=100, help="messages per second (100)")
    parser.add_argument("--every", type=float, default=15, help="mean seconds between two faults (15)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="the kinds of faults, separated by commas")
    parser.add_argument("--shards", type=int, default=2, help="number of shards (2)")
    parser.add_argument("--poison", type=float, default=Shares.poison, help="share of poison messages (0.01)")
    parser.add_argument("--refuse-poison", action="store_true", help="let the warehouse refuse poison messages")
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
