"""The DAG that ingests a part of the topic again: a plan, then one task per shard."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta
from itertools import batched
from math import ceil
from typing import Any

from airflow.sdk import DAG, Param, task

from dag_factories.assets import COMMITTED
from dag_factories.connections import AirflowSettings
from dag_factories.policy import DEFAULT_ARGS, START
from dag_factories.replay_range import replay_bounds, replay_shards
from dag_factories.xcom import from_xcom, to_xcom
from include import bootstrap
from include.errors import hide_values
from include.pipeline import replay
from include.pipeline.stage import StageLimits, check_topic
from replay_only import ReplayOnly

log = logging.getLogger(__name__)

REPLAY_POOL = "replay"
#: Airflow maps over at most 1,024 values.
_MAX_MAPPED = 1_000
_PROGRESS_S = 10.0

_DOC = """
Ingests messages again that are still in the topic, of any number: after a store was added or restored, or to check that
everything is there. It changes nothing that is right already, and moves no offset.

* **Trigger** it with `from` and, if you like, `to`: each a time (when the messages were *published*) or an offset.
  `shards` is a list of numbers; empty means all. With `dry_run`, it only counts.
* **Backfill** it to replay the hours in which messages were published.
* Live events go first: replays have the pool `replay`, whose slots are the shards replayed at the same time, and a
  lower priority than every other task.
* After a failure, clear the failed task: it goes on with the slice that failed.
"""


def replay_dag() -> DAG:
    """The DAG ``replay``."""
    hours: Any = ReplayOnly("0 * * * *", timezone="UTC")
    bound = ["null", "string", "integer"]
    with DAG(
        dag_id="replay",
        description="Ingests a part of the topic again",
        doc_md=_DOC,
        schedule=hours,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        params={
            "shards": Param([], type="array", items={"type": "integer"}, description="numbers; empty: all shards"),
            "from": Param(None, type=bound, description="a time, like 2026-03-01T09:30:00Z, or an offset"),
            "to": Param(None, type=bound, description="a time or an offset, exclusive; empty: the newest message"),
            "dry_run": Param(False, type="boolean", description="only count the messages"),
        },
        default_args={**DEFAULT_ARGS, "priority_weight": 0, "weight_rule": "absolute"},
        tags=["millrace", "ingest"],
    ) as dag:
        replay_shard.expand(ranges=plan())
    return dag


@task
@hide_values()
def plan(
    params: dict[str, Any] | None = None,
    dag_run: Any = None,
    data_interval_start: datetime | None = None,
    data_interval_end: datetime | None = None,
) -> list[list[dict[str, Any]]]:
    """Find the offsets of each shard. Returns them in groups, one per task; none in a dry run."""
    settings, values = AirflowSettings(), params or {}
    topic, shards = settings.kafka.topic, settings.pipeline.shards
    start, end = replay_bounds(dag_run.run_type, values, data_interval_start, data_interval_end)
    chosen = replay_shards(values.get("shards"), shards)
    with bootstrap.open_stage_ports(settings) as ports:
        check_topic(topic, shards, ports)
        ranges = replay.plan(ports.source, chosen, start, end)
    for each in ranges:
        log.info("%s[%s]: %s messages, offsets %s to %s", topic, each.shard, f"{each.size:,}", each.start, each.end)
    log.info("%s messages of %s shards", f"{sum(each.size for each in ranges):,}", len(ranges))
    if values.get("dry_run"):
        return []
    return [list(map(to_xcom, group)) for group in batched(ranges, max(1, ceil(len(ranges) / _MAX_MAPPED)))]


@task(pool=REPLAY_POOL, execution_timeout=timedelta(days=7), outlets=[COMMITTED])
@hide_values()
def replay_shard(ranges: list[dict[str, Any]], dag_run: Any = None) -> int:
    """Stage, embed, store and commit one slice after the other. Returns the number of messages."""
    settings = AirflowSettings()
    pipeline = settings.pipeline
    messages = 0
    with bootstrap.open_replay_ports(settings) as ports:
        for each in ranges:
            wanted = from_xcom(each, replay.ShardRange)
            position = replay.ReplayPosition(ports.commit.files, dag_run.run_id, wanted.shard)
            messages += replay.replay(
                settings.kafka.topic,
                wanted,
                pipeline.batch_size,
                StageLimits(max_bytes=pipeline.batch_bytes),
                ports,
                position,
                _Progress(wanted.shard),
            )
    return messages


class _Progress:
    """Logs how far a shard is every few seconds."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._started = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._shown >= _PROGRESS_S:
            self._shown = now
            counts = f"{done:,} of {total:,} messages, {done / (now - self._started):,.0f} per second"
            log.info("shard %s: %s", self._shard, counts)
