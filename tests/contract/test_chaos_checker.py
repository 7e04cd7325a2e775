"""The checker of ``make chaos`` is checked: it finds nothing in a correct state, and each planted bug where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import ANY

import pytest
from psycopg2 import connect

from tests.chaos import checker_readers
from tests.chaos.checker import check_replay
from tests.chaos.checker_readers import read_milvus
from tests.chaos.observations import Observations, ServedReads
from tests.contract.chaos_state import SHARDS, ChaosState, open_state, unique_name
from tests.contract.conftest import Servers
from tests.contract.planted_bugs import BUGS

pytestmark = pytest.mark.servers("kafka", "mongo", "milvus", "neo4j", "postgres", "redis")


@pytest.fixture(scope="module")
def state(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosState]:
    """A correct state; each test that breaks it restores it."""
    name = unique_name()
    environment: dict[str, str] = {}
    for server in ("kafka", "mongo", "milvus", "neo4j", "postgres", "redis"):
        environment.update(servers.environment(server))
    admin = connect(
        f"postgresql://admin:{servers.stack.secrets['postgres_admin']}@{servers.stack.config.address('postgres')}/postgres"
    )
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} OWNER warehouse")
        try:
            with open_state(_own(environment, name, tmp_path_factory.mktemp("batches"))) as opened:
                yield opened
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


def _own(environment: Mapping[str, str], name: str, folder: Path) -> dict[str, str]:
    """The settings of the servers, with everything in it named for this module only."""
    return {
        **environment,
        "MILLRACE_KAFKA_GROUP": name,
        "MILLRACE_TOPIC": name,
        "MILLRACE_DEAD_LETTER_TOPIC": f"{name}.dead-letters",
        "MILLRACE_MONGO_DATABASE": name,
        "MILLRACE_WAREHOUSE_DSN": f"{environment['MILLRACE_WAREHOUSE_DSN'].rpartition('/')[0]}/{name}",
        "MILLRACE_EMBED_URL": f"memory://{name}",
        "MILLRACE_EMBED_MODEL": name,
        "MILLRACE_EMBED_DIMENSION": "32",
        "MILLRACE_BATCH_PATH": folder.as_uri(),
        "MILLRACE_SHARDS": str(SHARDS),
    }


def test_a_correct_state_has_no_violation(state: ChaosState) -> None:
    """Every invariant is checked but the order of arrival, and none is broken, also after a replay."""
    observed = Observations(served=ServedReads(10, 0), published={0: 1, 1: 1}, converged=True)
    violations = state.check(observed)
    assert violations.details == []
    assert set(violations.counts) == {1, 2, 3, 4, 5, 8, 9, 10, 11}
    assert set(violations.unchecked) == {6, 7}
    assert check_replay(state.settings, state.replay, state.prefix).counts == {6: 0}


def test_many_vectors_are_read_in_ranges_of_the_key(state: ChaosState, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a query may return are read completely, each once."""
    together = sorted(event.event_id for event in read_milvus(state.settings))
    monkeypatch.setattr(checker_readers, "MILVUS_ROWS", len(together) // 2)
    assert sorted(event.event_id for event in read_milvus(state.settings)) == together


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_breaks_exactly_its_invariants(state: ChaosState, name: str) -> None:
    """The checker reports the invariants that the bug concerns, and no other."""
    bug = BUGS[name]
    with bug.plant(state) as planted:
        violations = state.check(*planted)
    assert violations.broken == bug.breaks, violations.details


def test_a_replay_that_changes_a_store_is_found(state: ChaosState) -> None:
    """A replay that counts what it has counted before breaks invariant 6."""
    scale = "MATCH (u:User)-[r:ENGAGED]->() WHERE u.id STARTS WITH $prefix SET r.weight = r.weight * $by"
    violations = check_replay(state.settings, lambda: state.query(scale, prefix=state.prefix, by=2), state.prefix)
    state.query(scale, prefix=state.prefix, by=0.5)
    assert violations.broken == {6}


def test_every_bug_was_mended(state: ChaosState) -> None:
    """After all of them only what the harness observed is wrong, so no bug was found because of another."""
    violations = state.check(Observations(published={0: 1_000_000}, converged=False))
    assert {number: count for number, count in violations.counts.items() if count} == {3: ANY, 11: 1}, (
        violations.details
    )
    assert len(violations.details) == 2
