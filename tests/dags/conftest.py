"""Airflow for the DAG tests: a temporary home, created before Airflow is first imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
_HOME = tempfile.TemporaryDirectory(prefix="millrace-airflow-")

os.environ.update(
    {
        "AIRFLOW_HOME": _HOME.name,
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "MILLRACE_SHARDS": "5",
    }
)


@pytest.fixture(scope="session")
def bag() -> Any:
    """The project's DAGs, parsed as the dag-processor parses them."""
    from airflow.dag_processing.dagbag import BundleDagBag

    folder = PROJECT / "dags"
    return BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
