"""What has become too old is counted, archived and deleted on the real servers, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from include.cli import __main__ as cli
from include.domain.batch import BatchMode, BatchRef, StageCounts
from include.domain.generation import Generation
from include.domain.identity import text_hash
from include.domain.offsets import Offsets
from include.maintenance import open_kinds
from include.pipeline.files import batch_folder, events_file
from include.pipeline.maintain import maintain
from include.settings import EnvironmentSettings, KafkaSettings, WarehouseSettings
from include.sinks.warehouse import WarehouseSink
from include.stores.files import ArrowFiles
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.events import event
from tests.contract.test_warehouse import batch_of

GENERATION = Generation("test", "1", 2)
COUNTS = StageCounts(delivered=5, valid=3, dropped=1, dead_letters={"invalid_json": 1, "kind_missing": 1})

pytestmark = pytest.mark.servers("postgres")


@pytest.fixture
def warehouse(warehouse_dsn: str) -> Iterator[Warehouse]:
    """An empty warehouse."""
    with closing(Warehouse(WarehouseSettings(warehouse_dsn))) as warehouse:
        yield warehouse


def _commit_batches(warehouse: Warehouse, number: int) -> list[BatchRef]:
    batches = []
    for n in range(number):
        ref = warehouse.ledger.claim("events", 0, Offsets(0, 5 * number), 5)
        assert ref == BatchRef("events", 0, 5 * n, 5 * n + 5, epoch=1)
        warehouse.ledger.record_staged(ref, COUNTS)
        warehouse.ledger.commit(ref)
        batches.append(ref)
    return batches


def _age(warehouse: Warehouse, table: str, column: str, days: int, where: str = "true") -> None:
    statement = f"UPDATE pipeline.{table} SET {column} = {column} - make_interval(days => {days}) WHERE {where}"
    warehouse.database.execute(statement)


def test_old_batches_are_added_up(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Totals stay the same, slice by slice; the position, the last batch, young and open batches stay."""
    monkeypatch.setattr("include.stores.warehouse.retention.SLICE", 2)
    _commit_batches(warehouse, 6)
    _age(warehouse, "batches", "committed_at", 100, "start_offset <> 20")
    before = warehouse.stats.read_totals("events")
    assert warehouse.retention.count_old_batches(90) == 4
    assert [warehouse.retention.archive_old_batches(90) for _ in range(3)] == [2, 2, 0]
    assert warehouse.stats.read_totals("events") == before
    assert before.delivered == 30
    rows = warehouse.database.query("SELECT start_offset FROM pipeline.batches ORDER BY 1")
    assert [start for (start,) in rows] == [20, 25]
    assert warehouse.ledger.read_position("events", 0) == 30
    assert warehouse.ledger.claim("events", 0, Offsets(0, 40), 5) == BatchRef("events", 0, 30, 35, epoch=1)
    assert warehouse.retention.count_old_batches(90) == 0


def test_archives_of_one_day_are_added_to_each_other(warehouse: Warehouse) -> None:
    """A later run adds to the counts of a day that an earlier one has archived."""
    _commit_batches(warehouse, 3)
    _age(warehouse, "batches", "committed_at", 100, "start_offset = 0")
    assert warehouse.retention.archive_old_batches(90) == 1
    _age(warehouse, "batches", "committed_at", 100, "start_offset = 5")
    assert warehouse.retention.archive_old_batches(90) == 1
    rows = warehouse.database.query("SELECT batches, delivered, valid, dropped FROM pipeline.archived_batches")
    assert rows == [(2, 10, 6, 2)]
    letters = warehouse.database.query("SELECT reason, messages FROM pipeline.archived_dead_letters ORDER BY 1")
    assert letters == [("invalid_json", 2), ("kind_missing", 2)]


def test_abandoned_ranges_are_dropped(warehouse: Warehouse) -> None:
    """Their users count as changed, since some store may have the range; live and young claims stay."""
    old, young = (
        warehouse.ledger.claim_range(BatchRef("events", 0, start, start + 3, BatchMode.RANGE)) for start in (0, 3)
    )
    live = warehouse.ledger.claim("events", 0, Offsets(0, 9), 9)
    sink = WarehouseSink(warehouse._settings)
    with closing(sink):
        sink.upsert(batch_of(old, event(user_id="u", message_id="m")))
    assert warehouse.activity.read_changed_users() == []
    _age(warehouse, "batches", "claimed_at", 8, "start_offset = 0")
    assert warehouse.retention.count_abandoned_ranges(7) == 1
    assert warehouse.retention.drop_abandoned_ranges(7) == 1
    assert warehouse.retention.drop_abandoned_ranges(7) == 0
    assert list(warehouse.ledger.find_open("events")) == [live, young]
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u"]


def test_only_vectors_that_nobody_needs_are_deleted(warehouse: Warehouse) -> None:
    """A text of a stored event keeps its vector at any age, and so does one that a batch has needed meanwhile."""
    texts = ["stored", "unused", "needed", "young"]
    hashes = [text_hash(text) for text in texts]
    warehouse.text_vectors.put(GENERATION, hashes, np.ones((4, 2), np.float32))
    _age(warehouse, "text_vectors", "used_at", 40, f"text_hash <> '{text_hash('young')}'")
    ref = warehouse.ledger.claim_range(BatchRef("events", 0, 0, 1))
    with closing(WarehouseSink(warehouse._settings)) as sink:
        sink.upsert(batch_of(ref, event(message_id="m", text="stored")))
    assert warehouse.retention.count_unused_vectors(30) == 2
    warehouse.text_vectors.mark_used(GENERATION, [text_hash("needed"), text_hash("never embedded")])
    assert warehouse.retention.delete_unused_vectors(30) == 1
    assert warehouse.retention.delete_unused_vectors(30) == 0
    assert warehouse.text_vectors.get(GENERATION, hashes).keys() == set(hashes) - {text_hash("unused")}


@pytest.mark.servers("kafka")
def test_the_command_counts_first_and_deletes_on_request(
    warehouse: Warehouse,
    kafka_settings: KafkaSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Files of open batches and kinds with the setting 0 are kept, and a second run finds nothing."""
    from include.sources.kafka_topics import ensure_topics

    ensure_topics(kafka_settings, 1)
    refs = _commit_batches(warehouse, 2)
    _age(warehouse, "batches", "committed_at", 100)
    live = warehouse.ledger.claim("events", 0, Offsets(0, 20), 5)
    assert live is not None
    files = ArrowFiles(tmp_path.as_uri())
    for ref in (*refs, live):
        files.write(events_file(ref), batch_of(ref, event(message_id="m")).events)
    variables = {
        "MILLRACE_WAREHOUSE_DSN": warehouse._settings.dsn,
        "MILLRACE_BATCH_PATH": tmp_path.as_uri(),
        "MILLRACE_KAFKA_BOOTSTRAP": kafka_settings.bootstrap,
        "MILLRACE_TOPIC": kafka_settings.topic,
        "MILLRACE_DEAD_LETTER_TOPIC": kafka_settings.dead_letter_topic,
        "MILLRACE_KEEP_TEXT_VECTORS_DAYS": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = {"batches": 1, "ranges": 0, "folders": 2, "dead_letters": 1}
    settings = EnvironmentSettings(variables)
    with open_kinds(settings) as kinds:
        assert maintain(kinds, apply=False, progress=lambda *_: None) == expected
    assert cli.main(["maintain"]) == 0
    printed = capsys.readouterr()
    assert "nothing was deleted: run it again with --apply" in printed.err
    assert cli.main(["maintain", "--only", "lists"]) == 1
    assert "--only lists: use one or more of batches,ranges,folders" in capsys.readouterr().err
    assert cli.main(["maintain", "--apply"]) == 0
    assert files.find_folders("batches/") == [batch_folder(live).split("/")[1]]
    with open_kinds(settings) as kinds:
        assert not any(maintain(kinds, apply=True, progress=lambda *_: None).values())
