"""What other users of the machine, and its logs, have of the whole system after it has processed events: nothing."""

from __future__ import annotations

import json
import os
from contextlib import closing
from datetime import UTC, datetime

import psycopg2
import pytest
from psycopg2 import sql

from include import bootstrap
from stack.servers import postgres
from tests.canary import CANARY, ODD, find_in_files
from tests.contract.privacy import (
    list_exposed_paths,
    list_exposed_secrets,
    list_open_addresses,
    list_paths_readable_by_a_stranger,
)
from tests.e2e.system import System, wait_for


def test_nothing_is_open_to_others(system: System) -> None:
    """Every folder and file is private, including Airflow's home, its tasks' logs and the files between tasks."""
    assert list(system.stack.config.home.glob("airflow/logs/dag_id=*"))
    assert list_exposed_paths(system.stack) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_stranger_reads_nothing(system: System) -> None:
    """Another user of the machine can list no folder and open no file, even if it knows all their names."""
    assert list_paths_readable_by_a_stranger(system.stack) == []


def test_no_process_has_a_secret_in_its_arguments(system: System) -> None:
    """Every user can see the arguments of all processes, including those of Airflow's tasks."""
    assert list_exposed_secrets(system.stack) == []


def test_every_server_listens_on_loopback_only(system: System) -> None:
    """No process of the system accepts connections from other machines."""
    assert list_open_addresses(system.stack) == []


@pytest.fixture(scope="module")
def refused(system: System) -> str:
    """The log of a task whose rows PostgreSQL refused, and quoted in its error."""
    system.warehouse.database.execute("ALTER TABLE events ADD CONSTRAINT refuse CHECK (kind <> 'refused') NOT VALID")
    now = datetime.now(UTC)
    event = {"user_id": ODD, "message_id": ODD, "kind": "refused", "occurred_at": now.isoformat(), "text": ODD}
    system.publish({ODD: [json.dumps(event).encode()]}, now)
    wait_for("upsert_warehouse to fail", lambda: _find_refusals(system))
    return _find_refusals(system)[0]


def _find_refusals(system: System) -> list[str]:
    files = (system.stack.config.home / "airflow" / "logs").glob("**/task_id=upsert_warehouse/*.log")
    return [text for text in (file.read_text(encoding="utf-8") for file in files) if "SQLSTATE 23514" in text]


def test_a_failed_task_logs_the_cause(refused: str) -> None:
    """The log names the error, the table and the constraint, and has the traceback."""
    assert "CheckViolation, SQLSTATE 23514, table events, constraint refuse" in refused
    assert "warehouse refuses 1 of" in refused
    assert "include/pipeline/upsert.py" in refused


def test_the_refused_event_becomes_a_dead_letter(system: System, refused: str) -> None:
    """By itself: the next run commits the batch without it, and no other store keeps it."""
    assert refused
    wait_for("the dead letter of the refused event", lambda: "refused_by_warehouse" in _read_reasons(system))
    system.wait_until_quiesced()
    events = system.mongo[system.settings.mongo.database][system.settings.mongo.collection]
    assert events.find_one({"kind": "refused"}) is None


def _read_reasons(system: System) -> set[str]:
    with closing(bootstrap.open_dead_letters(system.settings)) as letters:
        return {str(letter.reason) for letter in letters.read()}


def test_no_log_has_a_text_or_an_id(system: System, refused: str) -> None:
    """No text and no id of an event is in a file outside the stores: no log of a task, of Airflow or of a server."""
    assert refused
    config = system.stack.config
    assert list(config.logs.glob("*.log"))
    data = {str(config.home / "data"), str(config.batches)}
    folders = [folder for folder in config.home.iterdir() if str(folder) not in data]
    assert {"airflow", "logs", "run"} <= {folder.name for folder in folders}
    assert [path for folder in folders for path in find_in_files(folder)] == []
    assert find_in_files(config.data("neo4j"), "logs/*") == []


def test_airflow_remembers_no_text_and_no_id(system: System, refused: str) -> None:
    """No row of Airflow's metadata has one: no XCom, parameter, rendered template, asset event or audit log entry."""
    assert refused
    config, secrets = system.stack.config, system.stack.secrets
    with closing(psycopg2.connect(postgres.dsn(config, secrets, "airflow"))) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        assert {"xcom", "task_instance", "rendered_task_instance_fields", "asset_event", "log"} <= set(tables)
        found = []
        for table in tables:
            statement = sql.SQL("SELECT count(*) FROM {} AS entry WHERE entry::text LIKE %s").format(
                sql.Identifier(table)
            )
            cursor.execute(statement, [f"%{CANARY}%"])
            found += [table] * cursor.fetchall()[0][0]
        assert found == []
