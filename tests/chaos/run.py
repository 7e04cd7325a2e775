"""One chaos run on a running cluster: load and faults, the wait until it has settled, the checks and the replay."""

from __future__ import annotations

import argparse
import time
from contextlib import closing

from demo.watch import PRECOMPUTE
from include.errors import TransientError
from stack.server import Report
from tests.chaos.checker import check, check_replay
from tests.chaos.cluster import Cluster
from tests.chaos.injector import Injector
from tests.chaos.load import Load, Shares, is_refused
from tests.chaos.observations import Observations, Violations
from tests.chaos.publishing import SteadyPublisher, poll_load
from tests.chaos.schedule import plan
from tests.chaos.settling import Settling
from tests.chaos.verdict import Run
from tests.chaos.watch import ListWatch, OffsetWatch, poll_lists, poll_offsets

#: The system must have settled so many seconds after the last fault.
CONVERGE_S = 300
_PROGRESS_S = 10
#: A run in which less of the load is ingested than this has proved too little.
_MIN_SHARE = 0.5
_EVERYTHING = {"from": 0}


class ChaosRun:
    """One run on a cluster that is up. ``report`` gets lines of progress."""

    def __init__(self, cluster: Cluster, options: argparse.Namespace, report: Report) -> None:
        settings = cluster.settings
        self._cluster = cluster
        self._options = options
        self._say = report
        self._load = Load(options.seed, options.shards, Shares(poison=options.poison, refused=options.refused))
        self._offsets = OffsetWatch(settings, options.shards)
        self._lists = ListWatch(cluster.environment["MILLRACE_READER_URL"], self._load.known_users)
        self._publisher = SteadyPublisher(settings.kafka, self._load, options.rate)
        self._injector = Injector(cluster, self._offsets, options.seed, cluster.config.logs)
        self._settling = Settling(cluster)
        self._reported_at = 0.0
        self._given_up: set[str] = set()

    def execute(self) -> Run:
        """Load and faults, then the wait, the checks and the replay."""
        with closing(self._settling), closing(self._offsets), closing(self._lists), closing(self._injector):
            with poll_offsets(self._offsets), poll_lists(self._lists):
                self._disturb()
                converged = self._settling.wait(CONVERGE_S, self._progress)
                left = self._settling.left
                if converged is not None:
                    self._say(f"converged after {converged:.0f} s")
                    self._settling.run_dag(PRECOMPUTE, {}, CONVERGE_S)
                    self._settling.wait(CONVERGE_S, self._progress)
            violations = self._check(converged is not None, left)
        return self._conclude(converged, left, violations)

    def _disturb(self) -> None:
        """Publish the load while the faults fall; both have ended when it returns."""
        seconds = self._options.seconds
        faults = plan(self._options.seed, seconds, self._options.every, self._options.kinds)
        self._say(f"seed {self._options.seed}: {len(faults)} faults in {seconds:.0f} s")
        with poll_load(self._publisher):
            began = time.monotonic()
            self._injector.run(faults, self._progress)
            while time.monotonic() - began < seconds:
                self._progress()
                time.sleep(0.5)
            self._injector.finish(self._progress)  # the last faults may still be waiting for work
        self._publisher.finish()
        self._say("the faults have stopped")

    def _check(self, converged: bool, left: str) -> Violations:
        if not converged:
            return Violations({11: 1}, [f"not converged: {left}"], {})
        self._say("checking")
        observations = Observations(
            self._offsets.samples,
            self._lists.versions.served,
            self._publisher.acknowledged,
            is_refused,
            converged,
        )
        violations = check(self._cluster.settings, observations)
        if self._options.replay:
            self._say("replaying everything")
            violations = violations.merge(check_replay(self._cluster.settings, self._replay))
        return violations

    def _replay(self) -> None:
        state = self._settling.run_dag("replay", _EVERYTHING, CONVERGE_S)
        if state != "success":
            raise TransientError(f"the replay of everything ended as {state}")
        self._settling.wait(CONVERGE_S, self._progress)

    def _conclude(self, converged: float | None, left: str, violations: Violations) -> Run:
        options, publisher = self._options, self._publisher
        return Run(
            seed=options.seed,
            seconds=options.seconds,
            events=min(sum(publisher.acknowledged.values()), self._offsets.committed),
            min_events=int(options.rate * options.seconds * _MIN_SHARE),
            applied=self._injector.applied,
            progress=self._offsets.progress,
            converge_seconds=converged,
            left=left,
            violations=violations,
            given_up=sorted(self._given_up),
            notes={
                "published": publisher.classes,
                "unacknowledged": publisher.unknown,
                "served": self._lists.versions.served.reads,
                "served_failed": self._lists.failed,
                "served_5xx": self._lists.server_errors,
            },
        )

    def _progress(self) -> None:
        """Report every few seconds."""
        if time.monotonic() - self._reported_at < _PROGRESS_S:
            return
        self._reported_at = time.monotonic()
        self._given_up.update(self._cluster.find_given_up())
        applied, opened = self._injector.applied, sum(self._offsets.open_batches.values())
        latest = ", ".join(f"{one.fault.kind}{'!' if one.hit else ''}" for one in applied[-3:])
        given_up = f"; given up: {', '.join(sorted(self._given_up))}" if self._given_up else ""
        self._say(
            f"sent {self._publisher.sent:,}, committed {self._offsets.committed:,}, open {opened}, "
            f"faults {len(applied)} ({sum(one.hit for one in applied)} in flight) {latest}{given_up}"
        )
