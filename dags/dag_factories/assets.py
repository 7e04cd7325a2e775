"""The assets that connect the DAGs. The asset of a shard is defined with its DAG."""

from __future__ import annotations

from airflow.sdk import Asset

#: A batch of some shard is in every store.
COMMITTED = Asset(name="committed", uri="x-millrace://committed")
#: The engagement of some hours was recounted.
ENGAGEMENT = Asset(name="engagement", uri="x-millrace://engagement")
