"""The DAGs: they parse, they have the designed structure, and they follow the project's rules."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from dag_factories.policy import RETRY_POLICY
from include.bootstrap import SINKS

from .conftest import PROJECT

SHARDS = 5
INGEST = [f"ingest_shard_{shard:03d}" for shard in range(SHARDS)]
OTHERS = ["aggregate_engagement", "precompute_recommendations", "reconcile", "replay", "maintain", "train_ranking"]


def edges(dag: Any) -> set[tuple[str, str]]:
    return {(task.task_id, follower) for task in dag.tasks for follower in task.downstream_task_ids}


def test_every_dag_parses(bag: Any) -> None:
    """There is one ingest DAG per shard, the other DAGs, and no import error."""
    assert bag.import_errors == {}
    assert sorted(bag.dags) == sorted([*INGEST, *OTHERS])


@pytest.mark.parametrize("dag_id", INGEST)
def test_only_sinks_that_need_vectors_wait_for_embed(bag: Any, dag_id: str) -> None:
    """All sinks run in parallel after stage, those that need vectors only after embed, and commit comes last."""
    expected = {("stage", "embed"), ("stage", "commit")}
    for sink, spec in SINKS.items():
        expected |= {("stage", f"upsert_{sink}"), (f"upsert_{sink}", "commit")}
        if spec.needs_vectors:
            expected.add(("embed", f"upsert_{sink}"))
    assert edges(bag.dags[dag_id]) == expected
    assert ("embed", "upsert_milvus") in expected
    assert ("embed", "upsert_mongo") not in expected


def test_precompute_builds_every_profile_before_the_first_list(bag: Any) -> None:
    """Lists are built only once the profiles of all chunks are stored."""
    dag = bag.dags["precompute_recommendations"]
    assert ("build_profiles", "recommend") in edges(dag)
    assert ("recommend", "publish") in edges(dag)


@pytest.mark.parametrize("dag_id", [*INGEST, *OTHERS])
def test_every_dag_follows_the_rules(bag: Any, dag_id: str) -> None:
    """Every DAG has one run at a time, no catch-up, the retry policy, a time limit, an owner and documentation."""
    dag = bag.dags[dag_id]
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.doc_md
    assert "millrace" in dag.tags
    for task in dag.tasks:
        assert task.retries >= 2
        assert task.retry_policy is RETRY_POLICY
        assert task.execution_timeout is not None
        assert task.owner == "millrace"


@pytest.mark.parametrize("dag_id", [*INGEST, *OTHERS])
def test_serialisation_is_stable(bag: Any, dag_id: str) -> None:
    """A DAG survives serialisation, and parsing it again gives the same bytes: no new DAG version without a change."""
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.serialization.serialized_objects import DagSerialization

    reparsed = BundleDagBag(dag_folder=PROJECT / "dags", bundle_path=PROJECT / "dags", bundle_name="dags-folder")
    first, second = (DagSerialization.serialize_dag(parsed.dags[dag_id]) for parsed in (bag, reparsed))
    assert json.dumps(first, sort_keys=True, default=str) == json.dumps(second, sort_keys=True, default=str)
    assert DagSerialization.deserialize_dag(first).dag_id == dag_id


@pytest.mark.parametrize("dag_id", ["replay", "aggregate_engagement"])
def test_hours_can_be_backfilled(bag: Any, dag_id: str) -> None:
    """Airflow offers backfills of replay and aggregation, although no clock schedules a replay."""
    from airflow.serialization.serialized_objects import DagSerialization

    dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(bag.dags[dag_id]))
    assert dag.timetable.periodic


def test_a_replay_yields_to_live_shards(bag: Any) -> None:
    """It has a pool of its own, and every task of another DAG goes first, even the last one of an ingest run."""
    ranged, *others = [bag.dags["replay"], *(dag for name, dag in bag.dags.items() if name != "replay")]
    assert {task.pool for dag in others for task in dag.tasks}.isdisjoint({"replay"})
    assert ranged.get_task("replay_shard").pool == "replay"
    # A weight of the rule "downstream" is at least the task's own.
    lowest = min(task.priority_weight for dag in others for task in dag.tasks)
    assert all(task.weight_rule == "absolute" for task in ranged.tasks)
    assert all(task.priority_weight < lowest for task in ranged.tasks)


def test_pools_and_connections_are_in_the_settings_file(bag: Any) -> None:
    """Every pool that a task uses, and every connection that the factories read, is in airflow_settings.yaml."""
    from dag_factories import connections

    settings = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text())["airflow"]
    pools = {pool["pool_name"] for pool in settings["pools"]} | {"default_pool"}
    assert {task.pool for dag in bag.dags.values() for task in dag.tasks} <= pools
    used = {value for name, value in vars(connections).items() if name.isupper() and str(value).endswith("_default")}
    used |= {spec.connection for spec in SINKS.values()}
    assert used == {connection["conn_id"] for connection in settings["connections"]}
    assert not any(connection.get("conn_password") for connection in settings["connections"])


def test_parsing_imports_no_driver() -> None:
    """Parsing a DAG file imports no driver, model or validation library."""
    heavy = [
        "pymongo",
        "pymilvus",
        "neo4j",
        "psycopg2",
        "redis",
        "confluent_kafka",
        "great_expectations",
        "torch",
        "pandas",
    ]
    program = (
        "import sys; import airflow.sdk; before = set(sys.modules)\n"
        "import ingest, aggregate, precompute, reconcile, replay, maintain, train_ranking\n"
        f"print([name for name in {heavy!r} if name in set(sys.modules) - before])"
    )
    path = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'dags'}:{PROJECT / 'plugins'}"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_a_task_parses_only_its_own_dag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task builds only the DAG that Airflow asks for, so that 64 shards cost it no more than one."""
    import ingest

    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "ingest_shard_003")
    for name in INGEST:
        monkeypatch.delattr(ingest, name, raising=False)
    importlib.reload(ingest)
    assert [name for name in INGEST if hasattr(ingest, name)] == ["ingest_shard_003"]
