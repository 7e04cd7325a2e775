"""Import what tasks need before the executor forks its workers, so that no task pays for it.

Great Expectations alone takes seconds. Only modules are imported: no client, thread or model may exist before a fork.
Workers of other executors import what they need when they need it.
"""

from __future__ import annotations

import importlib
import logging
import sys

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

#: In addition to the modules of the sinks, which come from the registry.
_MODULES = (
    "numpy",
    "pandas",
    "pyarrow.csv",
    "pyarrow.compute",
    "scipy.sparse",
    "fsspec",
    "httpx",
    "confluent_kafka.admin",
    "great_expectations",
    "include.embedders.openai",
    "include.pipeline.aggregate",
    "include.pipeline.commit",
    "include.pipeline.embed",
    "include.pipeline.precompute",
    "include.pipeline.replay",
    "include.pipeline.settle",
    "include.pipeline.stage",
    "include.pipeline.upsert",
    "include.sources.kafka",
    "include.stores.files",
    "include.stores.milvus",
    "include.stores.neo4j",
    "include.stores.neo4j_similar",
    "include.stores.redis",
    "include.stores.warehouse.warehouse",
    "include.validation.great_expectations",
)


@hookimpl
def on_starting(component: object) -> None:
    """Called by every long-lived component as it starts; only the scheduler forks tasks."""
    # The component does not know its own kind yet: Airflow calls this first.
    if "scheduler" not in sys.argv:
        return
    # The library logs every method that it documents, and quotes values in its warnings and errors.
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    for name in modules_to_preload():
        try:
            importlib.import_module(name)
        except ImportError as error:
            log.warning("%s was not preloaded: %s", name, error)


def modules_to_preload() -> tuple[str, ...]:
    """Every module that tasks import, drivers included."""
    from include.bootstrap import SINKS

    return (*_MODULES, *(f"include.sinks.{name}" for name in SINKS))
