"""Training and the lists of the trained ranking, on the pipeline in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.domain.recommendation_list import RecommendationList
from include.errors import PermanentError
from include.pipeline import train as training
from include.pipeline.files import model_folder
from include.pipeline.train import Trained, TrainPorts, is_training_due, put_into_service, train_ranking
from include.ranking.training import Comparison
from include.stores.memory_graph import MemorySimilarItems
from tests.contract.events import event
from tests.unit.pipeline.memory_precompute import DAY, NOW, Pipeline, purchase

USERS, ITEMS, GROUPS = 150, 24, 3


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """A pipeline in which user n takes items of group n % 3, over two months."""
    pipeline = Pipeline(str(tmp_path), users_per_chunk=50, train_min_engagements=100, as_of="now")
    pipeline.store(
        *[
            purchase(f"u{user}", f"i{item}", f"thing {item}", (user * 7 + item * 5) % 60 + 0.5)
            for user in range(USERS)
            for item in range(ITEMS)
            if item % GROUPS == user % GROUPS and (user + item) % 4
        ]
    )
    return pipeline


def ports_of(pipeline: Pipeline) -> TrainPorts:
    ports = pipeline.ports
    return TrainPorts(
        ports.log,
        ports.models,
        ports.activity,
        ports.text_vectors,
        ports.files,
        MemorySimilarItems(pipeline.graph.rows),
        pipeline.embedder.generation,
    )


def train(pipeline: Pipeline) -> Trained:
    lines: list[str] = []
    trained = train_ranking(pipeline.settings, ports_of(pipeline), lines.append)
    assert any("NDCG@10" in line for line in lines)
    return trained


def list_of(pipeline: Pipeline, user: str) -> RecommendationList:
    pipeline.run()
    found = pipeline.list_of(user)
    assert found is not None
    return found


def test_lists_come_from_the_ranking_in_service(pipeline: Pipeline) -> None:
    """Before the first training lists come from similar texts; afterwards they are learned, with true reasons."""
    assert list_of(pipeline, "u0").source == "similar_users"
    trained = train(pipeline)
    assert (trained.is_promoted, trained.comparison) == (True, None)
    pipeline.now += DAY
    learned = list_of(pipeline, "u0")
    assert learned.source == "learned"
    own = {f"i{item}" for item in range(ITEMS) if item % GROUPS == 0 and item % 4}
    missing = {f"i{item}" for item in range(ITEMS) if item % GROUPS == 0 and not item % 4}
    assert {item.item_id for item in learned.items[: len(missing)]} == missing
    assert not {item.item_id for item in learned.items} & own
    reasons = [item.reason for item in learned.items if item.source == "similar_items"]
    assert all(reason.removeprefix("because you chose thing ").isdecimal() for reason in reasons)
    assert all(f"i{reason.removeprefix('because you chose thing ')}" in own for reason in reasons)


def test_a_user_without_items_and_an_item_without_users(pipeline: Pipeline) -> None:
    """Whoever only wrote gets items by their texts; an item that came after the training is recommended too."""
    train(pipeline)
    pipeline.now += DAY
    fresh = purchase("u1", "fresh", "thing 3 again", 0.1)
    message = event(user_id="writer", kind="message", item_id=None, text="thing 3", occurred_at=NOW)
    pipeline.store(fresh, message)
    found = list_of(pipeline, "writer")
    assert found.items
    assert "fresh" in {item.item_id for item in found.items}
    assert list_of(pipeline, "u1").items[0].item_id != "fresh"


def test_training_twice_stores_one_model(pipeline: Pipeline) -> None:
    """The same events give the same version, a day later too, which is not worse than itself."""
    first = train(pipeline)
    pipeline.now += DAY
    second = train(pipeline)
    assert first.model.version == second.model.version
    assert second.is_promoted
    assert len(pipeline.ports.models.find()) == 1


def test_a_worse_model_is_not_promoted(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that scores worse than the one in service on the same split is stored, but not put into service."""
    first = train(pipeline)
    pipeline.store(*[purchase(f"u{user}", f"i{user % ITEMS}", None, 0.2) for user in range(USERS)])
    monkeypatch.setattr(training, "compare_models", lambda *_: Comparison(1.0, -0.2, 0.1))
    second = train(pipeline)
    assert second.model.version != first.model.version
    assert not second.is_promoted
    current = pipeline.ports.models.read_current()
    assert current is not None
    assert current.version == first.model.version


def test_rolling_back(pipeline: Pipeline) -> None:
    """An earlier version that is promoted again serves the next lists."""
    first = train(pipeline)
    pipeline.store(*[purchase(f"u{user}", f"i{user % ITEMS}", None, 0.2) for user in range(USERS)])
    pipeline.ports.models.promote(train(pipeline).model.version, NOW)
    pipeline.ports.models.promote(first.model.version, NOW)
    assert pipeline.build().model == first.model.version


def test_old_models_are_deleted(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some models are kept besides the one in service, with their files."""
    monkeypatch.setattr(training, "KEPT_MODELS", 1)
    versions = []
    for number in range(3):
        pipeline.store(*[purchase(f"u{user}", f"i{(user + number) % ITEMS}", None, 0.3) for user in range(USERS)])
        versions.append(train(pipeline).model.version)
        pipeline.now += DAY
    kept = {model.version for model in pipeline.ports.models.find()}
    assert len(kept) == 2
    assert set(pipeline.ports.files.find_folders("ranking/")) == kept
    current = pipeline.ports.models.read_current()
    assert current is not None
    assert current.version in kept
    assert model_folder("v") == "ranking/v/"


def test_the_ranking_in_service_shows_its_similar_items(pipeline: Pipeline) -> None:
    """Each item is joined to those of its own group, also after going back to an earlier version."""
    ports = ports_of(pipeline)
    first = train_ranking(pipeline.settings, ports, lambda line: None)
    for _ in range(2):
        for item in ("i3", "i7"):
            others = ports.similar_items.find(item, 3)
            assert len(others) == 3
            assert {int(other[1:]) % GROUPS for other, _ in others} == {int(item[1:]) % GROUPS}
        ports.similar_items.replace("none", [])
        put_into_service(first.model.version, ports)


def test_training_is_due_once_there_is_enough(pipeline: Pipeline) -> None:
    """Due with enough events and no model, not after a training, and again when that is long ago."""
    ports, settings = ports_of(pipeline), pipeline.settings
    assert is_training_due(settings, ports)
    train(pipeline)
    assert not is_training_due(settings, ports)
    pipeline.now += settings.train_every_days * DAY
    assert is_training_due(settings, ports)


def test_too_few_events_are_not_trained_on(tmp_path: Path) -> None:
    """A single user's events are too few: not due, and a clear error when it is asked for."""
    pipeline = Pipeline(str(tmp_path), train_min_engagements=100)
    pipeline.store(*[purchase("u", f"i{number}", None, number) for number in range(20)])
    assert not is_training_due(pipeline.settings, ports_of(pipeline))
    with pytest.raises(PermanentError, match="MILLRACE_TRAIN_MIN_ENGAGEMENTS"):
        train_ranking(pipeline.settings, ports_of(pipeline), lambda line: None)
