"""The connections of docker-compose.airflow.yml, read as a task reads them."""

from __future__ import annotations

import pytest

from dag_factories import connections
from include.settings import Settings
from tests.compose import composed, environment


def test_tasks_and_command_line_reach_the_same_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """AIRFLOW_CONN_* of Airflow's services and MILLRACE_* of the command line become equal settings."""
    services = composed(environment())["services"]
    for name, value in services["airflow-scheduler"]["environment"].items():
        if name.startswith(("AIRFLOW_CONN_", "MILLRACE_")):
            monkeypatch.setenv(name, str(value))
    from_shell = Settings.from_environment({key: str(v) for key, v in services["cli"]["environment"].items()})
    assert connections.kafka() == from_shell.kafka
    assert connections.mongo() == from_shell.mongo
    assert connections.milvus() == from_shell.milvus
    assert connections.neo4j() == from_shell.neo4j
    assert connections.warehouse() == from_shell.warehouse
    assert connections.redis() == from_shell.redis
    assert connections.embed() == from_shell.embed
