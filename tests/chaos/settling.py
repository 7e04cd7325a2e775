"""Waits until a run has settled: everything ingested, counted and recommended, with nothing running."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException

from demo.airflow import AirflowClient
from demo.watch import AGGREGATE, INGEST, PRECOMPUTE
from include.errors import MillraceError
from include.settings import Settings
from tests.chaos.checker_ledger import read_progress
from tests.chaos.checker_readers import query_warehouse
from tests.chaos.cluster import Cluster

_EVERY_S = 1.0
_PENDING = """
SELECT (SELECT count(*) FROM pipeline.batches WHERE topic = %(topic)s AND mode = 'live' AND committed_at IS NULL),
       (SELECT count(*) FROM pipeline.touched_hours), (SELECT count(*) FROM pipeline.changed_users)
"""
_DAGS = (INGEST, AGGREGATE, PRECOMPUTE, "replay")
_FINAL = ("success", "failed")


class Settling:
    """Reads what is left to do, bypassing the proxies."""

    def __init__(self, cluster: Cluster) -> None:
        self._settings: Settings = cluster.settings
        self._airflow = AirflowClient.for_stack(cluster.environment, timeout_s=10)
        self.left = "nothing was read yet"

    def close(self) -> None:
        """Close the connections."""
        self._airflow.close()

    def wait(self, limit_s: float, on_wait: Callable[[], None]) -> float | None:
        """Seconds until nothing was left to do; None if that took longer than the limit. ``left`` says what was."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            self.left = self._read()
            if not self.left:
                return time.monotonic() - began
            on_wait()
            time.sleep(_EVERY_S)
        return None

    def run_dag(self, dag_id: str, conf: Mapping[str, Any], limit_s: float) -> str:
        """Trigger a run. Returns its final state, or ``unfinished``."""
        runs = f"/api/v2/dags/{dag_id}/dagRuns"
        deadline = time.monotonic() + limit_s
        run_id = self._airflow.request("POST", runs, json={"logical_date": None, "conf": dict(conf)})["dag_run_id"]
        while time.monotonic() < deadline:
            state = str(self._airflow.request("GET", f"{runs}/{run_id}")["state"])
            if state in _FINAL:
                return state
            time.sleep(_EVERY_S)
        return "unfinished"

    def _read(self) -> str:
        try:
            progress = read_progress(self._settings)
            lag = sum(high - progress.ledger.get(shard, 0) for shard, (_, high) in progress.ranges.items())
            open_, hours, users = next(query_warehouse(self._settings, _PENDING, {"topic": self._settings.kafka.topic}))
            runs = self._airflow.list_runs()
        except (MillraceError, KafkaException, OSError) as error:
            return f"a server does not answer ({type(error).__name__})"
        except Exception as error:  # noqa: BLE001 - psycopg2 and others, while a server starts
            return f"a server does not answer ({type(error).__name__})"
        active = sum(run.state in ("queued", "running") and run.dag_id.startswith(_DAGS) for run in runs)
        counts = {"messages": lag, "open batches": open_, "hours": hours, "users": users, "runs": active}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
