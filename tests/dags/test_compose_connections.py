"""The connections in docker-compose.airflow.yml, read as a task reads them."""

from __future__ import annotations

import pytest

from dag_factories.connections import AirflowSettings
from include.settings import EnvironmentSettings
from tests.compose import expand, generate_environment


def test_tasks_and_command_line_use_the_same_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's AIRFLOW_CONN_* and the command line's MILLRACE_* variables give equal settings."""
    services = expand(generate_environment())["services"]
    for name, value in services["airflow-scheduler"]["environment"].items():
        if name.startswith(("AIRFLOW_CONN_", "MILLRACE_")):
            monkeypatch.setenv(name, str(value))
    from_shell = EnvironmentSettings({name: str(value) for name, value in services["cli"]["environment"].items()})
    from_airflow = AirflowSettings()
    for section in ("kafka", "mongo", "milvus", "neo4j", "warehouse", "redis", "embed"):
        assert getattr(from_airflow, section) == getattr(from_shell, section), section
