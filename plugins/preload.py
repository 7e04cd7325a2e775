"""Load what the tasks import before the executor forks its workers: a task then pays for none of it.

Great Expectations alone takes seconds. Only modules are loaded: a client, a thread or a model must not exist before
a fork. A worker of another executor simply imports what it needs when it needs it.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

_MODULES = (
    "numpy",
    "pandas",
    "pyarrow.csv",
    "pyarrow.compute",
    "scipy.sparse",
    "fsspec",
    "httpx",
    "confluent_kafka.admin",
    "psycopg2.extras",
    "pymongo",
    "neo4j",
    "pymilvus",
    "redis",
    "great_expectations",
    "include.bootstrap",
    "include.embedders.openai",
    "include.pipeline.aggregate",
    "include.pipeline.commit",
    "include.pipeline.embed",
    "include.pipeline.precompute",
    "include.pipeline.stage",
    "include.pipeline.upsert",
    "include.sinks.milvus",
    "include.sinks.mongo",
    "include.sinks.neo4j",
    "include.sinks.warehouse",
    "include.sources.kafka",
    "include.stores.files",
    "include.stores.redis",
    "include.stores.warehouse.warehouse",
    "include.validation.great_expectations",
)


@hookimpl
def on_starting(component: Any) -> None:
    """Called by every long-lived component as it starts; only the scheduler forks tasks."""
    # The component does not know yet what it is: Airflow calls this first.
    if "scheduler" not in sys.argv:
        return
    # It logs every method that it documents.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            log.warning("%s was not loaded ahead of the tasks: %s", name, error)
