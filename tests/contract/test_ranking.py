"""What the learned ranking reads and stores: one suite for the warehouse in memory and the one on PostgreSQL."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import pytest

from include.domain.event import Event
from include.domain.ranking_model import RankingModel
from include.errors import ConfigurationError
from include.ports import Sink
from include.ranking.dataset import build_dataset
from include.ranking.popularity import log_age, log_popularity
from include.settings import WarehouseSettings
from include.sinks.warehouse import WarehouseSink
from include.stores.memory_warehouse import MemoryWarehouse, MemoryWarehouseSink
from include.stores.warehouse import ranking
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.batches import batch_of
from tests.contract.events import event

DAY = 86_400_000
MODEL = RankingModel("v1", 3_000, 2_000, 10, 20, 30, 0.125, 0.0625, '{"weights": {"walk": 0.5}}', "card\nof é")

type Ports = Warehouse | MemoryWarehouse


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.servers("postgres"))])
def warehouse(request: pytest.FixtureRequest) -> Iterator[tuple[Ports, Sink]]:
    """An empty warehouse, and its sink."""
    if request.param == "memory":
        memory = MemoryWarehouse()
        yield memory, MemoryWarehouseSink(memory.tables)
    else:
        settings = WarehouseSettings(request.getfixturevalue("warehouse_dsn"))
        with closing(Warehouse(settings)) as real, closing(WarehouseSink(settings)) as sink:
            yield real, sink


def _store(sink: Sink, *events: Event) -> None:
    numbered = [
        Event(**{**{name: getattr(each, name) for name in each.__struct_fields__}, "message_id": f"m{number}"})
        for number, each in enumerate(events)
    ]
    sink.upsert(batch_of(numbered))


def test_every_engagement_is_scanned(warehouse: tuple[Ports, Sink], monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan has each event with an item once, whatever the size of its chunks, and none without."""
    ports, sink = warehouse
    monkeypatch.setattr(ranking, "_CHUNK", 2)
    log = ports.engagement_log
    assert (log.count(), list(log.scan())) == (0, [])
    events = [event(user_id="é", item_id=f"i{number}", occurred_at=-number, kind="view") for number in range(5)]
    _store(sink, *events, event(item_id=None, text="hello"))
    rows = pa.concat_tables(log.scan()).to_pylist()
    assert sorted(row["item_id"] for row in rows) == [f"i{number}" for number in range(5)]
    assert {"user_id": "é", "item_id": "i3", "kind": "view", "occurred_at": -3} in rows
    assert log.count() == 5


def test_items_are_summarised_as_training_sees_them(warehouse: tuple[Ports, Sink]) -> None:
    """Popularity and age by the store are those that training computes from the events."""
    ports, sink = warehouse
    half_lives = (7, None)
    as_of = 20 * DAY
    _store(
        sink,
        event(user_id="u", item_id="a", kind="view", occurred_at=DAY),
        event(user_id="u", item_id="a", kind="purchase", occurred_at=15 * DAY),
        event(user_id="v", item_id="a", kind="click", occurred_at=19 * DAY),
        event(user_id="v", item_id="b", kind="return", occurred_at=2 * DAY),
        event(user_id="v", item_id="b", kind="purchase", occurred_at=21 * DAY),
        event(user_id="w", item_id="c", kind="return", occurred_at=DAY),
        event(user_id="w", item_id="d", occurred_at=-60_000 * DAY),
    )
    table = ports.engagement_log.summarise_items(as_of, half_lives)
    assert table["item_id"].to_pylist() == ["a", "b", "d"]
    assert table["first_at"].to_pylist() == [DAY, 21 * DAY, -60_000 * DAY]
    assert table["scores"].to_pylist()[0] == pytest.approx([0.5 ** (19 / 7) + 0.4 * 0.5 ** (1 / 7), 1.4])
    assert table["scores"].to_pylist()[1] == pytest.approx([1, 1])
    data = build_dataset(ports.engagement_log.scan())
    rows = [data.items.index(item) for item in table["item_id"].to_pylist()]
    learned = log_popularity(data.events, as_of, half_lives)[rows]
    for row, scores in zip(learned, table["scores"].to_pylist(), strict=True):
        assert [round(value, 9) for value in row] == pytest.approx([math.log1p(score) for score in scores])
    assert log_age(data.events, as_of)[rows][0] == pytest.approx(math.log1p(19))


def test_no_items_are_no_error(warehouse: tuple[Ports, Sink]) -> None:
    """Before the first event there is nothing to summarise."""
    table = warehouse[0].engagement_log.summarise_items(0, (7, None))
    assert (table.num_rows, table.column_names) == (0, ["item_id", "first_at", "scores"])


def test_the_model_promoted_last_is_in_service(warehouse: tuple[Ports, Sink]) -> None:
    """A stored model serves only once it is promoted; promoting an earlier one again rolls back, whatever the time."""
    models = warehouse[0].models
    assert models.read_current() is None
    models.add(MODEL)
    models.add(replace(MODEL, version="v2", trained_at=4_000))
    assert models.read_current() is None
    assert [model.version for model in models.find()] == ["v2", "v1"]
    for version, now in (("v1", 10_000), ("v2", 20_000), ("v1", 5_000)):
        models.promote(version, now)
        current = models.read_current()
        assert current is not None
        assert current.version == version
    assert current == replace(MODEL, promoted_at=20_001)


def test_a_model_is_stored_once(warehouse: tuple[Ports, Sink]) -> None:
    """Storing a version again changes only when it was trained, least of all whether it is in service."""
    models = warehouse[0].models
    models.add(MODEL)
    models.promote("v1", 10_000)
    models.add(replace(MODEL, trained_at=9_000, card="other"))
    assert list(models.find()) == [replace(MODEL, trained_at=9_000, promoted_at=10_000)]


def test_a_dropped_model_is_gone(warehouse: tuple[Ports, Sink]) -> None:
    """A dropped version is neither listed nor promoted; dropping it again changes nothing."""
    models = warehouse[0].models
    models.add(MODEL)
    for _ in range(2):
        models.drop("v1")
    assert list(models.find()) == []
    with pytest.raises(ConfigurationError, match="no ranking 'v1' is stored"):
        models.promote("v1", 1)
