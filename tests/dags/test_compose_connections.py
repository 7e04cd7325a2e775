"""The connections in docker-compose.airflow.yml, read as a task reads them."""

from __future__ import annotations

import pytest

from dag_factories import connections
from include.settings import EnvironmentSettings
from tests.compose import expand, generate_environment


def test_tasks_and_command_line_use_the_same_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's AIRFLOW_CONN_* and the command line's MILLRACE_* variables give equal settings."""
    services = expand(generate_environment())["services"]
    for name, value in services["airflow-scheduler"]["environment"].items():
        if name.startswith(("AIRFLOW_CONN_", "MILLRACE_")):
            monkeypatch.setenv(name, str(value))
    from_shell = EnvironmentSettings({name: str(value) for name, value in services["cli"]["environment"].items()})
    assert connections.kafka() == from_shell.kafka
    assert connections.mongo() == from_shell.mongo
    assert connections.milvus() == from_shell.milvus
    assert connections.neo4j() == from_shell.neo4j
    assert connections.warehouse() == from_shell.warehouse
    assert connections.redis() == from_shell.redis
    assert connections.embed() == from_shell.embed
