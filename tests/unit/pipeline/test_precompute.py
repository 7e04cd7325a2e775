"""The precompute in memory: whose lists are built, from what, and when marks are cleared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from include.domain import ranking
from include.domain.generation import Generation
from include.errors import PermanentError, StagedBatchMissingError
from include.pipeline import precompute
from include.pipeline.files import run_folder
from include.pipeline.lists import list_ttl_s
from tests.contract.events import event
from tests.unit.pipeline.memory_precompute import DAY, NOW, Pipeline, purchase


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(str(tmp_path))


def store_purchases(pipeline: Pipeline) -> None:
    """Store the purchases of two groups of three users with the same taste; each user lacks one item of the group."""
    for taste, words in (("tea", "green tea cup"), ("car", "fast red car")):
        for number in range(3):
            items = [f"{taste}{n}" for n in range(4) if n != number]
            pipeline.store(*(purchase(f"{taste} user {number}", item, f"{words} {item}") for item in items))


def test_items_of_similar_users_are_recommended(pipeline: Pipeline) -> None:
    """A list begins with the item that users of the same taste have and this one lacks, with text and reason."""
    store_purchases(pipeline)
    assert pipeline.run() == 6
    for taste in ("tea", "car"):
        recommendations = pipeline.list_of(f"{taste} user 1")
        assert recommendations is not None
        assert (recommendations.items[0].item_id, recommendations.items[0].source) == (f"{taste}1", "similar_users")
        assert recommendations.items[0].reason == "chosen by 2 people with similar taste"
        assert f"{taste}1" in (recommendations.items[0].text or "")
        assert recommendations.source == "similar_users"
        assert recommendations.generated_at == NOW


def test_lists_are_filled_up_with_popular_items(pipeline: Pipeline) -> None:
    """Popular items follow those of similar users and are marked as such; items that the user has are left out."""
    store_purchases(pipeline)
    pipeline.store(event(user_id="quiet", message_id="1", item_id="gift", text=None, occurred_at=NOW - DAY))
    pipeline.run()
    recommendations = pipeline.list_of("tea user 0")
    assert recommendations is not None
    items = {item.item_id: item.source for item in recommendations.items}
    assert items["tea0"] == "similar_users"
    assert items["gift"] == recommendations.items[-1].source == "popular"
    assert not items.keys() & {"tea1", "tea2", "tea3"}


def test_a_user_without_text_gets_popular_items(pipeline: Pipeline) -> None:
    """A user without a profile has no neighbours, and gets a list that is marked as popular."""
    store_purchases(pipeline)
    pipeline.store(event(user_id="quiet", message_id="1", item_id="tea0", text=None, occurred_at=NOW - DAY))
    pipeline.run()
    recommendations = pipeline.list_of("quiet")
    assert recommendations is not None
    assert recommendations.source == "popular"
    assert recommendations.items


def test_a_user_whose_texts_are_gone_is_nobodys_neighbour(pipeline: Pipeline) -> None:
    """When every text of a user is corrected away, the profile is deleted, and others get nothing from this user."""
    pipeline.store(purchase("a", "x", "tea"), purchase("a", "y", "tea"), purchase("b", "x", "tea"))
    pipeline.run()
    recommendations = pipeline.list_of("b")
    assert recommendations is not None
    assert recommendations.source == "similar_users"
    # The texts stay in other events, so that their vectors are still there.
    pipeline.store(*(purchase("a", item, None, version=1) for item in ("x", "y")))
    pipeline.now += 60_000
    pipeline.run()
    assert pipeline.ports.profiles.get(["a", "b"]).keys() == {"b"}
    pipeline.store(purchase("b", "z", "tea"))
    pipeline.run()
    recommendations = pipeline.list_of("b")
    assert recommendations is not None
    assert recommendations.source == "popular"


def test_popularity_has_a_half_life(pipeline: Pipeline) -> None:
    """Two old purchases count less than a recent one."""
    pipeline.store(purchase("a", "old", "x", 90), purchase("b", "old", "x", 90.1), purchase("c", "new", "y", 1))
    pipeline.run()
    assert pipeline.rank_popular() == ["new", "old"]


def test_only_lists_of_changed_users_are_rebuilt(pipeline: Pipeline) -> None:
    """A second run builds no list, and a new event rebuilds only the list of its user."""
    store_purchases(pipeline)
    pipeline.run()
    pipeline.now += 60_000
    assert pipeline.run() == 0
    pipeline.store(purchase("tea user 0", "tea9", "green tea cup"))
    assert pipeline.run() == 1
    assert pipeline.ports.activity.read_changed_users() == []


def test_a_list_is_rebuilt_before_it_expires(pipeline: Pipeline) -> None:
    """Active users always have a list, because it is rebuilt before its TTL is over."""
    store_purchases(pipeline)
    pipeline.run()
    for _ in range(6):
        pipeline.now += 5 * 60_000
        pipeline.run()
        assert pipeline.list_of("tea user 0") is not None


@pytest.mark.parametrize("ttl_s", [300, 360, 420, 600, 900])
def test_no_lifetime_leaves_a_gap(tmp_path: Path, ttl_s: int) -> None:
    """With any permitted lifetime a list exists at every moment, although every other run takes almost two minutes."""
    pipeline = Pipeline(str(tmp_path), list_ttl_s=ttl_s)
    pipeline.store(purchase("a", "x", "t"))
    pipeline.run()
    for cycle in range(1, 13):
        pipeline.now = NOW + cycle * 5 * 60_000
        ref = pipeline.build()
        pipeline.now += 110_000 * (cycle % 2)
        assert pipeline.list_of("a") is not None
        precompute.publish(ref, pipeline.settings, pipeline.ports)


def test_profiles_of_one_run_have_one_centre(pipeline: Pipeline) -> None:
    """The centre is chosen with the users: texts that arrive during the run change neither it nor any later profile."""
    generation = pipeline.embedder.generation
    rng = np.random.default_rng(1)
    pipeline.store(purchase("a", "x", "t"))
    vectors = rng.standard_normal((400, generation.dimension)).astype(np.float32)
    pipeline.ports.text_vectors.put(generation, [str(number) for number in range(150)], vectors[:150])
    ref = precompute.select_users("run", pipeline.settings, pipeline.ports)
    texts, centre = pipeline.tables.centres[generation.name]
    pipeline.ports.text_vectors.put(generation, [str(number) for number in range(150, 400)], vectors[150:])
    precompute.build_profiles(ref, 0, pipeline.ports)
    assert pipeline.tables.centres[generation.name][0] == texts
    expected = ranking.subtract_centre(pipeline.embedder.embed(["t"]), centre)[0]
    np.testing.assert_allclose(pipeline.ports.profiles.get(["a"])["a"], expected, atol=1e-6)


def test_publishing_may_run_again_after_it_has_finished(pipeline: Pipeline) -> None:
    """A task that dies after its last step is retried: it succeeds with the same count and leaves no files of lists."""
    store_purchases(pipeline)
    ref = pipeline.build()
    counts = [precompute.publish(ref, pipeline.settings, pipeline.ports) for _ in range(2)]
    assert counts == [6, 6]
    with pytest.raises(StagedBatchMissingError):
        pipeline.ports.files.read(f"{run_folder(ref.run)}lists-00000.arrow")


def test_a_run_that_is_cleared_runs_again_as_a_whole(pipeline: Pipeline) -> None:
    """After clearing every task of a published run, its lists are built and published again."""
    store_purchases(pipeline)
    pipeline.run()
    pipeline.store(purchase("tea user 0", "tea9", "green tea cup"))
    assert pipeline.run() == 1  # at the same time, so with the same run id


def test_files_of_failed_runs_are_removed(pipeline: Pipeline, tmp_path: Path) -> None:
    """A run that never publishes leaves its files only until the next run, which leaves no lists and no user names."""
    store_purchases(pipeline)
    for minute in range(3):
        pipeline.now += minute * 60_000
        pipeline.build()
    assert len(list((tmp_path / "precompute").iterdir())) == 1
    pipeline.now += 60_000
    pipeline.run()
    assert [file.parent.name for file in tmp_path.rglob("*.arrow")] == ["published"]


def test_lists_of_inactive_users_are_not_refreshed(tmp_path: Path) -> None:
    """A user without an event in the last active_days gets a list once, but it is not rebuilt before it expires."""
    pipeline = Pipeline(str(tmp_path), active_days=30)
    pipeline.store(purchase("old", "x", "a", 100), purchase("new", "x", "a", 1))
    assert pipeline.run() == 2
    pipeline.now += 14 * 60_000
    assert pipeline.run() == 1
    assert pipeline.list_of("new") is not None


def test_invented_users_cause_no_work(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users that the warehouse does not know get no list however often they are asked for, and are forgotten."""
    pipeline.store(purchase("known", "x", "t"))
    pipeline.run()
    pipeline.lists.requests = dict.fromkeys(("known", *(f"invented {number}" for number in range(2_000))), NOW // 1000)
    looked_up: list[str] = []
    find_expiring = pipeline.lists.find_expiring

    def record_users(generation: str, users: Sequence[str], within_s: int) -> Sequence[str]:
        looked_up.extend(users)
        return find_expiring(generation, users, within_s)

    monkeypatch.setattr(pipeline.lists, "find_expiring", record_users)
    pipeline.now += 60_000
    assert precompute.select_users("run", pipeline.settings, pipeline.ports).chunks == 0
    assert looked_up == ["known"]
    assert pipeline.lists.requests.keys() == {"known"}


def test_a_known_reader_gets_a_list_though_inactive(tmp_path: Path) -> None:
    """A user without a recent event who asks for a list gets one of their own."""
    pipeline = Pipeline(str(tmp_path), active_days=30)
    pipeline.store(purchase("old", "x", "a", 100))
    pipeline.run()
    pipeline.now += 14 * 60_000
    assert pipeline.run() == 0
    pipeline.lists.requests["old"] = pipeline.now // 1000
    assert pipeline.run() == 1


def test_recency_may_count_from_the_newest_event(tmp_path: Path) -> None:
    """With as_of newest_event, the users of an old file are as active as they were at the time of its last event."""
    pipeline = Pipeline(str(tmp_path), active_days=30, as_of="newest_event")
    pipeline.store(purchase("old", "x", "a", 200), purchase("new", "x", "a", 190))
    pipeline.run()
    pipeline.now += 14 * 60_000
    assert pipeline.run() == 2


def test_there_are_never_more_chunks_than_airflow_maps(tmp_path: Path) -> None:
    """With more users than a thousand chunks hold, the chunks get larger: each user is in exactly one of them."""
    pipeline = Pipeline(str(tmp_path), users_per_chunk=1)
    users = [f"{number:04d}" for number in range(1_025)]
    pipeline.store(*(purchase(user, "x", None) for user in users))
    ref = precompute.select_users("run", pipeline.settings, pipeline.ports)
    assert ref.chunks == 513
    names = [f"{run_folder(ref.run)}users-{chunk:05d}.arrow" for chunk in range(ref.chunks)]
    assert [user for name in names for user in pipeline.ports.files.read(name)["user_id"].to_pylist()] == users


def test_a_failed_run_keeps_its_marks(pipeline: Pipeline) -> None:
    """Users stay marked as changed until their lists are published, and every step before that may run twice."""
    store_purchases(pipeline)
    ref = precompute.select_users("run", pipeline.settings, pipeline.ports)
    for _ in range(2):
        precompute.build_profiles(ref, 0, pipeline.ports)
        precompute.recommend(ref, 0, pipeline.ports)
    assert len({mark.key for mark in pipeline.ports.activity.read_changed_users()}) == 6
    assert pipeline.run() == 6


def test_a_change_during_a_run_is_not_lost(pipeline: Pipeline) -> None:
    """A user whose events change after the selection is still marked for the next run."""
    pipeline.store(purchase("a", "x", "t"))
    ref = precompute.select_users("run", pipeline.settings, pipeline.ports)
    pipeline.store(purchase("a", "y", "t"))
    precompute.build_profiles(ref, 0, pipeline.ports)
    precompute.recommend(ref, 0, pipeline.ports)
    precompute.publish(ref, pipeline.settings, pipeline.ports)
    assert [mark.key for mark in pipeline.ports.activity.read_changed_users()] == ["a"]


def test_nothing_stored_publishes_an_empty_popular_list(pipeline: Pipeline) -> None:
    """Before the first event the precompute succeeds, and publishes an empty popular list for the reader."""
    assert pipeline.run() == 0
    assert pipeline.rank_popular() == []


def test_ttls_are_between_seven_and_fifteen_minutes() -> None:
    """TTLs are spread below their setting and never fall below seven minutes."""
    ttls = [list_ttl_s(f"user {number}", 1, 900) for number in range(500)]
    assert 765 <= min(ttls) < max(ttls) <= 900
    assert {list_ttl_s("user", run, 300) for run in range(50)} == {420}


def test_a_run_ends_when_the_generation_changes(pipeline: Pipeline) -> None:
    """What a run has built under one generation is never published as the lists or profiles of another."""
    pipeline.store(purchase("u", "i", "a text"))
    ref = pipeline.build()
    ports = replace(pipeline.ports, generation=Generation("another", "1", 3))
    for step in (precompute.build_profiles, precompute.recommend):
        with pytest.raises(PermanentError, match="the generation"):
            step(ref, 0, ports)
    with pytest.raises(PermanentError, match="the generation"):
        precompute.publish(ref, pipeline.settings, ports)
    assert pipeline.lists.current is None
