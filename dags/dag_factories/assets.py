"""The assets that connect the DAGs. A shard's own asset lives with its DAG."""

from __future__ import annotations

from airflow.sdk import Asset

#: A batch of some shard is in every store.
COMMITTED = Asset(name="committed", uri="x-millrace://committed")
#: The engagement of some hours was counted again.
ENGAGEMENT = Asset(name="engagement", uri="x-millrace://engagement")
