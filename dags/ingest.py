"""The ingest DAGs, one per shard. MILLRACE_SHARDS is the number of shards: the partitions of the topic."""

from __future__ import annotations

import os

from airflow.sdk import get_parsing_context

from dag_factories.connections import static_values
from dag_factories.ingest import ingest_dag
from include.settings import pipeline_settings

# A task parses this file again and needs only its own DAG.
only = get_parsing_context().dag_id

for shard in range(pipeline_settings(static_values(os.environ)).shards):
    if only in (None, f"ingest_shard_{shard:03d}"):
        globals()[f"ingest_shard_{shard:03d}"] = ingest_dag(shard)
