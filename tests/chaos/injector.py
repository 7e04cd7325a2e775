"""Applies planned faults to a running cluster, each at a moment at which it meets work in flight if there is one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple

from demo.airflow import AirflowClient
from include.errors import TransientError
from stack.config import PROJECT
from tests.chaos.cluster import Cluster, send_signal
from tests.chaos.schedule import PROXIED, SHARED_KINDS, Fault
from tests.chaos.second_run import HIT, REFUSED, STALE
from tests.chaos.watch import OffsetWatch

#: A fault waits for work in flight, but not longer than this: a shard that recovers from another fault may not embed
#: anything for more than a minute.
_AIM_S = 150
_AIM_EVERY_S = 0.05
#: A server that has just recovered from a fault gets no other: killed while it starts, it would be given up.
_REST_S = 20
_RUN_S = 700


class Applied(NamedTuple):
    """A fault as it fell: its target, when it began and ended (``time.monotonic``), and whether it met work in flight.

    ``failed`` says why it could not be applied.
    """

    fault: Fault
    target: str
    began: float
    ended: float
    hit: bool
    failed: str = ""


class Injector:
    """Runs each fault in a thread of its own, so that they may overlap."""

    def __init__(self, cluster: Cluster, watch: OffsetWatch, seed: int, logs: Path) -> None:
        self._cluster = cluster
        self._watch = watch
        self._random = Random(seed)
        self._logs = logs
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._children: list[subprocess.Popen[str]] = []
        self._began = time.time()
        self._ended: dict[str, float] = {}
        self.applied: list[Applied] = []

    def run(self, faults: Sequence[Fault], on_wait: Callable[[], None]) -> None:
        """Start every fault at its time; ``on_wait`` is called about once a second."""
        began = time.monotonic()
        for fault in faults:
            while (left := began + fault.at - time.monotonic()) > 0:
                on_wait()
                time.sleep(min(1, left))
            thread = threading.Thread(target=self._apply, args=(fault,), name=fault.kind, daemon=True)
            self._threads.append(thread)
            thread.start()

    def finish(self, on_wait: Callable[[], None]) -> None:
        """Wait until every fault has ended."""
        while any(thread.is_alive() for thread in self._threads):
            on_wait()
            time.sleep(0.5)

    def close(self) -> None:
        """End every fault now."""
        self._stopped.set()
        for child in self._children:
            with suppress(ProcessLookupError):
                child.kill()
        for thread in self._threads:
            thread.join(30)

    def _apply(self, fault: Fault) -> None:
        target = fault.target
        try:
            if fault.kind == "second_run":
                self._run_beside(fault)
                return
            if fault.kind == "replay":
                self._replay(fault)
                return
            fault, pids, hit = self._aim(fault)
            target = fault.target
            if fault.kind.endswith("_task"):
                pids = [self._random.choice(pids)] if pids else []
            began = time.monotonic()
            self._inject(fault, pids)
            ended = time.monotonic()
            if target:
                self._ended[target] = ended
            self.applied.append(Applied(fault, target, began, ended, hit))
        except Exception as error:  # noqa: BLE001 - a fault that cannot be applied must not go unnoticed
            now = time.monotonic()
            self.applied.append(Applied(fault, target, now, now, False, f"{type(error).__name__}: {error}"))

    def _aim(self, fault: Fault) -> tuple[Fault, list[int], bool]:
        """Wait for work in flight. Returns the fault, the processes of its target, and whether it will meet any work.

        A fault that could as well fall on another server takes one that is at work, if its own is not for a while.
        """
        began = time.monotonic()
        others = [fault._replace(target=server) for server in PROXIED] if fault.kind in SHARED_KINDS else []
        while True:
            waited = time.monotonic() - began
            for candidate in [fault, *(others if waited > _AIM_S / 8 else [])]:
                pids = self._find_pids(candidate)
                if self._has_rested(candidate.target) and self._meets_work(candidate, pids):
                    return candidate, pids, True
            if waited > _AIM_S or self._stopped.is_set():
                return fault, self._find_pids(fault), False
            time.sleep(_AIM_EVERY_S)

    def _find_pids(self, fault: Fault) -> list[int]:
        return self._cluster.task_pids() if fault.kind.endswith("_task") else self._cluster.pids(fault.target)

    def _has_rested(self, target: str) -> bool:
        return target not in self._ended or time.monotonic() - self._ended[target] >= _REST_S

    def _meets_work(self, fault: Fault, pids: list[int]) -> bool:
        if fault.kind.endswith("_task"):
            return bool(pids)
        working = any(self._watch.open_batches.values()) or bool(self._cluster.task_pids())
        if not fault.target:
            return working
        used = self._cluster.proxies.busy(fault.target) if fault.target in PROXIED else bool(pids)
        return working and used

    def _inject(self, fault: Fault, pids: list[int]) -> None:
        match fault.kind.partition("_")[0]:
            case "kill":
                send_signal(pids, signal.SIGKILL)
            case "pause":
                send_signal(pids, signal.SIGSTOP)
                self._stopped.wait(fault.seconds)
                send_signal(pids, signal.SIGCONT)
            case _:
                self._disturb(fault)
                self._stopped.wait(fault.seconds)
                self._cluster.proxies.clear(fault.target)

    def _disturb(self, fault: Fault) -> None:
        match fault.kind:
            case "reset":
                self._cluster.proxies.reset(fault.target)
            case "black_hole":
                self._cluster.proxies.black_hole(fault.target)
            case _:
                self._cluster.proxies.delay(fault.target, fault.latency)

    def _run_beside(self, fault: Fault) -> None:
        """Ingest the batch that Airflow's run of some shard has open."""
        shard = self._random.randrange(self._cluster.config.shards)
        command = [sys.executable, "-m", "tests.chaos.second_run", "--shard", str(shard)]
        began = time.monotonic()
        environment = {**self._cluster.environment, "PYTHONPATH": str(PROJECT), "PATH": ""}
        with (self._logs / f"{fault.kind}-{int(fault.at)}.log").open("w") as log:
            child = subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
            self._children.append(child)
            output, _ = child.communicate(timeout=_RUN_S)
        failed = "" if child.returncode in (0, STALE, REFUSED, -signal.SIGKILL) else f"exit code {child.returncode}"
        self.applied.append(Applied(fault, "", began, time.monotonic(), HIT in output, failed))

    def _replay(self, fault: Fault) -> None:
        """Let Airflow replay up to a minute of what was published so far, beside the live runs."""
        _, _, hit = self._aim(fault)
        start = datetime.fromtimestamp(self._random.uniform(self._began, time.time()), UTC)
        conf = {"from": start.isoformat(), "to": (start + timedelta(minutes=1)).isoformat()}
        began = time.monotonic()
        with closing(AirflowClient.for_stack(self._cluster.environment)) as airflow:
            while not _trigger(airflow, "replay", conf):
                if self._stopped.wait(1):
                    return
        self.applied.append(Applied(fault, "", began, time.monotonic(), hit))


def _trigger(airflow: AirflowClient, dag_id: str, conf: Mapping[str, str]) -> bool:
    """Whether Airflow's API has accepted the run; it may be down."""
    try:
        airflow.request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
    except TransientError:
        return False
    return True
