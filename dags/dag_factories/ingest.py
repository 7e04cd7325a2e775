"""The ingest DAG of one shard: stage, then every sink in parallel, then commit. Only some sinks wait for embed."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task
from airflow.sdk.exceptions import AirflowSkipException

from dag_factories import connections
from dag_factories.assets import COMMITTED
from dag_factories.connections import AirflowSettings
from dag_factories.policy import DEFAULT_ARGS, START
from dag_factories.xcom import from_xcom, to_xcom
from include import bootstrap
from include.bootstrap import SINKS
from include.domain.batch import BatchRef
from include.errors import hide_values
from include.pipeline.commit import commit as commit_batch
from include.pipeline.embed import embed as embed_batch
from include.pipeline.stage import claim_and_stage
from include.pipeline.upsert import upsert as upsert_batch
from include.settings import EnvironmentSettings, pipeline_settings
from shard_lag import ShardLagTrigger

GPU_POOL = "gpu_embed"

_DOC = """
Ingests the events of shard {shard} (partition {shard} of the topic) into {stores}.

* It starts automatically when messages are waiting, and reads up to `millrace_batch_size` messages from the ledger's
  position. Only its last task, `commit`, moves offsets. Trigger it to drain the shard manually.
* To ingest messages again, use the DAG `replay`.
* If a store is down, only its `upsert_*` task fails; it is retried for half an hour, after which you can clear it.
* If the embedding server is down, `embed` fails, and only the stores that need vectors wait ({vector_stores}).
"""


def ingest_dag(shard: int) -> DAG:
    """The DAG ``ingest_shard_NNN``."""
    name = f"shard_{shard:03d}"
    with DAG(
        dag_id=f"ingest_{name}",
        description=f"Ingests the events of shard {shard} into every store",
        doc_md=_doc(shard),
        schedule=[_waiting_events(shard, name)],
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS,
        tags=["millrace", "ingest"],
    ) as dag:
        batch: Any = stage(shard)
        embedded = embed(batch)
        committed = commit(batch)
        for sink, spec in SINKS.items():
            stored = upsert.override(task_id=f"upsert_{sink}")(batch, sink)
            stored >> committed
            if spec.needs_vectors:
                embedded >> stored
        if not any(spec.needs_vectors for spec in SINKS.values()):
            embedded >> committed  # profiles need the text vectors, and commit deletes the batch's files
    return dag


def _waiting_events(shard: int, name: str) -> Asset:
    static = pipeline_settings(connections.static_values(os.environ))
    trigger = ShardLagTrigger(
        shard=shard,
        kafka_conn_id=connections.KAFKA,
        warehouse_conn_id=connections.WAREHOUSE,
        topic=EnvironmentSettings(os.environ).topic,
        shards=static.shards,
        min_lag=static.batch_size,
    )
    return Asset(name=f"events_{name}", uri=f"x-millrace://events/{name}", watchers=[AssetWatcher(name, trigger)])


def _doc(shard: int) -> str:
    stores = ", ".join(spec.title for spec in SINKS.values())
    vector_stores = ", ".join(spec.title for spec in SINKS.values() if spec.needs_vectors)
    return _DOC.format(shard=shard, stores=stores, vector_stores=vector_stores)


@task
@hide_values()
def stage(shard: int) -> dict[str, Any]:
    """Read, validate and deduplicate one batch; messages that are not valid events become dead letters."""
    settings = AirflowSettings()
    with bootstrap.open_stage_ports(settings) as ports:
        ref = claim_and_stage(settings.kafka.topic, shard, settings.pipeline, ports)
    return _xcom_or_skip(ref)


def _xcom_or_skip(ref: BatchRef | None) -> dict[str, Any]:
    if ref is None:
        raise AirflowSkipException("no messages to read")
    return to_xcom(ref)


@task(pool=GPU_POOL)
@hide_values()
def embed(batch: dict[str, Any]) -> dict[str, int]:
    """Compute the vectors of texts that were never embedded before."""
    with bootstrap.open_embed_ports(AirflowSettings()) as ports:
        return embed_batch(from_xcom(batch, BatchRef), ports)


@task
@hide_values()
def upsert(batch: dict[str, Any], sink: str) -> int:
    """Store the batch by identity; of two revisions of one event the higher (version, digest) stays."""
    with bootstrap.open_upsert_ports(sink, AirflowSettings()) as ports:
        return upsert_batch(from_xcom(batch, BatchRef), ports)


@task(outlets=[COMMITTED])
@hide_values()
def commit(batch: dict[str, Any]) -> None:
    """Record the batch in the ledger, then move the group's offset."""
    with bootstrap.open_commit_ports(AirflowSettings()) as ports:
        commit_batch(from_xcom(batch, BatchRef), ports)
