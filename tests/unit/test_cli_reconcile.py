"""``reconcile`` and ``rebuild`` on the command line, over stores in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.cli import __main__ as cli
from include.domain.event import Event
from include.errors import PermanentError
from include.memory_servers import MemoryServers, memory_servers
from include.reconciliation import open_write_ports, require_equal
from include.settings import EnvironmentSettings
from tests.contract.batches import batch_of
from tests.contract.events import event

NAMES = ["MONGO_URI", "MILVUS_URI", "NEO4J_URI", "WAREHOUSE_DSN", "EMBED_URL", "KAFKA_BOOTSTRAP"]
STORES = ["mongo", "milvus", "neo4j", "warehouse"]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """Servers of this test only."""
    address = f"memory://{request.node.name}"
    variables = {f"MILLRACE_{name}": address for name in NAMES}
    variables |= {"MILLRACE_BATCH_PATH": tmp_path.as_uri(), "MILLRACE_SHARDS": "4"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def servers(environment: dict[str, str]) -> MemoryServers:
    """Twelve events in every store."""
    events = [event(user_id=f"u{n}", message_id="m", text="t", occurred_at=n * 4_000_000) for n in range(12)]
    with open_write_ports(STORES, EnvironmentSettings(environment)) as ports:
        for name in STORES:
            ports.upsert(name, batch_of(events).events, batch_of(events).ref)
    return memory_servers(environment["MILLRACE_MONGO_URI"])


def _lost(servers: MemoryServers, store: str = "neo4j") -> Event:
    lost = event(user_id="u3", message_id="m", text="t", occurred_at=12_000_000)
    del servers.rows(store)[lost.event_id]  # type: ignore[attr-defined]
    return lost


def test_equal_stores_exit_zero(servers: MemoryServers, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shard and store has a row, and nothing differs."""
    assert cli.main(["reconcile"]) == 0
    printed = capsys.readouterr().out
    assert "12 events compared, 0 differ" in printed
    assert "not equal" not in printed


def test_a_difference_exits_one_and_shows_ids_only_on_demand(
    servers: MemoryServers, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table counts it, with the hour if asked; ids may tell something of users, so they need ``--show``."""
    lost = _lost(servers)
    assert cli.main(["reconcile", "--by", "hour", "--wait", "0"]) == 1
    printed = capsys.readouterr()
    assert "12 events compared, 1 differ" in printed.out
    assert "1970-01-01T03Z" in printed.out
    assert lost.event_id not in printed.out + printed.err
    assert cli.main(["reconcile", "--show"]) == 1
    assert f"missing in neo4j: {lost.event_id}" in capsys.readouterr().out


def test_a_repair_exits_zero(servers: MemoryServers, capsys: pytest.CaptureFixture[str]) -> None:
    """What it has repaired is no mismatch any more."""
    _lost(servers)
    assert cli.main(["reconcile", "--repair"]) == 0
    assert "1 differ, 1 repaired" in capsys.readouterr().out
    assert cli.main(["reconcile"]) == 0


def test_a_group_ahead_of_the_ledger_exits_one(servers: MemoryServers, capsys: pytest.CaptureFixture[str]) -> None:
    """The stores may agree, and yet a message be skipped."""
    servers.source.append(0, None, b"{}", 0)
    servers.source.commit(0, 1)
    assert cli.main(["reconcile"]) == 1
    assert "the group has committed 1, but the ledger only 0" in capsys.readouterr().out


def test_the_daily_task_fails_with_what_to_do(servers: MemoryServers, environment: dict[str, str]) -> None:
    """An operator sees which stores differ and the command that repairs them."""
    settings = EnvironmentSettings(environment)
    assert require_equal(settings) == {"events": 12, "in_flight": 0}
    _lost(servers)
    with pytest.raises(PermanentError, match=r"1 of 12 events.*1 missing in neo4j.*reconcile --repair"):
        require_equal(settings)


def test_a_rebuild_fills_an_emptied_store(servers: MemoryServers, capsys: pytest.CaptureFixture[str]) -> None:
    """Every event is written, and the stores are equal again."""
    for store in ("neo4j", "milvus"):
        servers.rows(store).clear()  # type: ignore[attr-defined]
    assert cli.main(["rebuild", "--from", "warehouse", "--to", "milvus,neo4j"]) == 0
    assert "12 events of warehouse written to milvus, neo4j" in capsys.readouterr().out
    assert cli.main(["reconcile"]) == 0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("rebuild --from mongo --to neo4j,redis", "--to redis: use one or more of milvus,neo4j,warehouse"),
        ("rebuild --from mongo --to mongo", "--to mongo: use"),
        ("rebuild --from mongo --to neo4j --shard 4", "--shard 4: use 0 to 3"),
        ("reconcile --shard -1", "--shard -1: use 0 to 3"),
    ],
)
def test_a_wrong_store_or_shard_is_named(
    line: str, complaint: str, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what is allowed, and nothing is written."""
    assert cli.main(line.split()) == 1
    assert complaint in capsys.readouterr().err
