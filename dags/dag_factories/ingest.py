"""The ingest DAG of one shard: stage, embed, four stores side by side, commit."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from typing import Any

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from dag_factories import connections
from dag_factories.assets import COMMITTED
from dag_factories.policy import DEFAULT_ARGS, START
from include.domain.batch import BatchRef
from include.errors import ConfigurationError
from include.settings import KafkaSettings, pipeline_settings
from replay_only import ReplayOnly
from shard_lag import ShardLagTrigger

log = logging.getLogger(__name__)

GPU_POOL = "gpu_embed"
SINKS = ("mongo", "milvus", "neo4j", "warehouse")

_DOC = """
Brings the events of shard {shard} (partition {shard} of the topic) into MongoDB, Milvus, Neo4j and the warehouse.

* **Live**: starts by itself when messages wait. It takes up to `millrace_batch_size` messages from where the ledger
  stands; only its last task, `commit`, moves offsets. Trigger it without parameters to drain the shard by hand.
* **Again**: trigger it with `from` and `to` (when the messages were *published*), or backfill hours: the range is
  ingested again, changes nothing that is already right, and moves no offset.
* A store that is down fails its own `upsert_*` task, which is tried again for half an hour; then clear that task.
"""


def ingest_dag(shard: int) -> DAG:
    """The DAG ``ingest_shard_NNN``."""
    static = pipeline_settings(connections.static_values(os.environ))
    name = f"shard_{shard:03d}"
    trigger = ShardLagTrigger(
        shard=shard,
        conn_id=connections.KAFKA,
        topic=os.environ.get("MILLRACE_TOPIC") or KafkaSettings.topic,
        shards=static.shards,
        min_lag=static.batch_size,
    )
    hours: Any = ReplayOnly("0 * * * *", timezone="UTC")
    waiting = Asset(name=f"events_{name}", uri=f"x-millrace://events/{name}", watchers=[AssetWatcher(name, trigger)])
    with DAG(
        dag_id=f"ingest_{name}",
        description=f"Events of shard {shard} into the four stores",
        doc_md=_DOC.format(shard=shard),
        schedule=AssetOrTimeSchedule(timetable=hours, assets=[waiting]),
        start_date=START,
        catchup=False,
        max_active_runs=1,
        params={
            "from": Param(None, type=["null", "string"], format="date-time", description="published at or after"),
            "to": Param(None, type=["null", "string"], format="date-time", description="published before"),
        },
        default_args=DEFAULT_ARGS,
        tags=["millrace", "ingest"],
    ) as dag:
        batch: Any = stage(shard)
        embedded = embed(batch)
        stored = [upsert.override(task_id=f"upsert_{sink}")(batch, sink) for sink in SINKS]
        embedded >> stored >> commit(batch)
    return dag


@task
def stage(
    shard: int,
    params: dict[str, Any] | None = None,
    dag_run: Any = None,
    data_interval_start: datetime | None = None,
    data_interval_end: datetime | None = None,
) -> dict[str, Any]:
    """Read, validate and deduplicate one batch; messages that are no events become dead letters."""
    from include import bootstrap
    from include.pipeline import stage as stage_step

    kafka, pipeline = connections.kafka(), connections.pipeline()
    with bootstrap.opened(
        bootstrap.source(kafka), bootstrap.dead_letters(kafka), bootstrap.warehouse(connections.warehouse())
    ) as (source, dead_letters, warehouse):
        span = published_span(dag_run.run_type, params or {}, data_interval_start, data_interval_end)
        if span is None:
            ref = stage_step.claim(source, warehouse.ledger, kafka.topic, shard, pipeline.batch_size)
        else:
            ref = stage_step.claim_range(source, warehouse.ledger, kafka.topic, shard, *span)
        if ref is None:
            raise AirflowSkipException("no message to read")
        counts = stage_step.stage(
            ref,
            source,
            dead_letters,
            bootstrap.validator(),
            warehouse.standing,
            warehouse.ledger,
            bootstrap.files(pipeline),
        )
    log.info("%s: %s", ref.batch_id, counts)
    for warning in counts.warnings:
        log.warning("%s: %s", ref.batch_id, warning)
    return to_xcom(ref)


@task(pool=GPU_POOL)
def embed(batch: dict[str, Any]) -> dict[str, int]:
    """Compute the vectors of texts never seen before."""
    from include import bootstrap
    from include.pipeline.embed import embed as embed_step

    pipeline = connections.pipeline()
    with bootstrap.opened(bootstrap.embedder(connections.embed()), bootstrap.warehouse(connections.warehouse())) as (
        embedder,
        warehouse,
    ):
        return embed_step(from_xcom(batch), bootstrap.files(pipeline), embedder, warehouse.text_vectors)


@task
def upsert(batch: dict[str, Any], sink_name: str) -> int:
    """Store the batch by identity; the higher version of an event stays."""
    from include import bootstrap
    from include.pipeline.upsert import upsert as upsert_step

    pipeline = connections.pipeline()
    with bootstrap.opened(open_sink(sink_name, pipeline.shards)) as (sink,):
        return upsert_step(from_xcom(batch), bootstrap.files(pipeline), sink)


@task(outlets=[COMMITTED], trigger_rule="all_success")
def commit(batch: dict[str, Any]) -> None:
    """Every store has the batch: note it in the ledger and move the offset."""
    from include import bootstrap
    from include.pipeline.commit import commit as commit_step

    pipeline = connections.pipeline()
    with bootstrap.opened(bootstrap.source(connections.kafka()), bootstrap.warehouse(connections.warehouse())) as (
        source,
        warehouse,
    ):
        commit_step(from_xcom(batch), warehouse.ledger, source, bootstrap.files(pipeline))


def open_sink(name: str, shards: int) -> Any:
    """The sink of that name, on its connection."""
    from include import bootstrap

    match name:
        case "mongo":
            return bootstrap.mongo_sink(connections.mongo())
        case "milvus":
            return bootstrap.milvus_sink(connections.milvus(), connections.embed().generation, shards)
        case "neo4j":
            return bootstrap.neo4j_sink(connections.neo4j())
        case _:
            return bootstrap.warehouse_sink(connections.warehouse())


def published_span(
    run_type: str, params: dict[str, Any], start: datetime | None, end: datetime | None
) -> tuple[int, int] | None:
    """The publishing times (ms since 1970) that a run must ingest again; None for a live run.

    A manual run and an asset run carry an interval too, which means nothing; only a backfill's does.
    """
    if run_type == "backfill" and start is not None and end is not None:
        return _milliseconds(start), _milliseconds(end)
    first, last = params.get("from"), params.get("to")
    if first is None and last is None:
        return None
    lowest = 0 if first is None else _milliseconds(_moment("from", first))
    highest = 2**62 if last is None else _milliseconds(_moment("to", last))
    return lowest, highest


def _moment(name: str, text: str) -> datetime:
    """Airflow takes any text for a date-time, and a time without an offset would be that of the worker's clock."""
    try:
        moment: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(f"{name} is {text!r}; it must be a time with an offset, like 2026-03-01T09:30:00Z")
    return moment


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def to_xcom(ref: BatchRef) -> dict[str, Any]:
    """All that travels by XCom: a range."""
    import msgspec

    return dict(msgspec.to_builtins(ref))


def from_xcom(value: dict[str, Any]) -> BatchRef:
    """The range that ``to_xcom`` wrote."""
    import msgspec

    return msgspec.convert(value, BatchRef)
