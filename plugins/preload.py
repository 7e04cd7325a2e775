"""Load what the tasks import before the executor forks its workers: a task then pays for none of it.

Great Expectations alone takes seconds. Only modules are loaded: a client, a thread or a model must not exist before
a fork. A worker of another executor simply imports what it needs when it needs it.
"""

from __future__ import annotations

import importlib
import logging
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
)


@hookimpl
def on_starting(component: Any) -> None:
    """Called by every long-lived component as it starts; only the scheduler forks tasks."""
    if getattr(component, "job_type", None) != "SchedulerJob":
        return
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            log.warning("%s was not loaded ahead of the tasks: %s", name, error)
