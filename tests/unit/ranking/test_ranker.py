"""From histories to ranked items: candidates, scores and evidence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from include.ranking.features import (
    NOMINATED,
    POPULARITY,
    SOURCES,
    Sources,
    SourceSettings,
    find_candidates,
    learn_sources,
)
from include.ranking.model import Model
from include.ranking.ranker import Ground, RankedItems, rank
from include.ranking.tables import NAMES, TrainedRanking, from_tables, to_tables
from tests.unit.ranking.made_events import make_events

EVENTS = make_events()
AS_OF = int(EVENTS.at.max()) + 1
TEXTS = np.random.default_rng(1).standard_normal((EVENTS.items, 6)).astype(np.float32)
TEXTS /= np.linalg.norm(TEXTS, axis=1, keepdims=True)
SETTINGS = SourceSettings(half_life=30, own_half_life=60, neighbours=20, user_neighbours=20)
USERS = np.arange(EVENTS.users)


def make_model(**weights: float) -> Model:
    """A model with these weights for all users."""
    row = np.array([weights.get(name, 0.0) for name in SOURCES])
    return Model(SETTINGS, row, row, 0.5, 0.25, [], True)


@pytest.fixture(scope="module")
def sources() -> Sources:
    """What is learned from the made-up events."""
    return learn_sources(EVENTS, AS_OF, SETTINGS, TEXTS)


def test_candidates_are_what_each_source_nominates(sources: Sources) -> None:
    """Every item among the best of some source and not the user's own is a candidate, and no other item."""
    histories = sources.histories(EVENTS, USERS[:5])
    candidates = find_candidates(sources, histories)
    scores = sources.score(histories).by_source
    seen = histories.seen.toarray() > 0
    for row in range(5):
        expected = set()
        for name in SOURCES[:-1]:
            line = np.where(seen[row], 0, scores[name] if name in POPULARITY else scores[name][row])
            best = np.argsort(-line, kind="stable")[: NOMINATED[name]]
            expected |= {int(item) for item in best if line[item] > 0}
        found = candidates.item[candidates.start[row] : candidates.start[row + 1]]
        assert set(found.tolist()) == expected - set(np.flatnonzero(seen[row]).tolist())


def test_personal_features_are_z_scores(sources: Sources) -> None:
    """Over a user's candidates each personal source has mean 0 and variance 1."""
    candidates = find_candidates(sources, sources.histories(EVENTS, USERS))
    for row in range(len(USERS)):
        own = candidates.features[candidates.start[row] : candidates.start[row + 1]]
        for name in ("item_ridge", "user_ridge", "walk", "text"):
            column = own[:, SOURCES.index(name)]
            assert (column.mean(), column.std()) == pytest.approx((0, 1), abs=1e-6)


def test_candidates_without_some_items(sources: Sources) -> None:
    """Items are taken out of each user's candidates, with their features, and nothing else is."""
    histories = sources.histories(EVENTS, USERS[:20])
    candidates = find_candidates(sources, histories)
    some = sparse.csr_array(np.random.default_rng(0).random((20, EVENTS.items)) < 0.3).astype(float)
    kept = candidates.without(some)
    for row in range(20):
        before = slice(candidates.start[row], candidates.start[row + 1])
        stays = some.toarray()[row, candidates.item[before]] == 0
        after = slice(kept.start[row], kept.start[row + 1])
        assert kept.item[after].tolist() == candidates.item[before][stays].tolist()
        assert (kept.features[after] == candidates.features[before][stays]).all()


def test_chunks_change_nothing(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidates are the same however few users fit into memory at a time."""
    histories = sources.histories(EVENTS, USERS)
    whole = find_candidates(sources, histories)
    monkeypatch.setattr("include.ranking.features._CHUNK_SCORES", 7 * EVENTS.items)
    parts = find_candidates(sources, histories)
    assert (whole.start == parts.start).all()
    assert (whole.item == parts.item).all()
    assert whole.features == pytest.approx(parts.features, abs=1e-4)


def _rank(model: Model, sources: Sources, limit: int = 10) -> list[RankedItems]:
    return list(rank(model, sources, sources.histories(EVENTS, USERS), limit))


def test_own_items_are_left_out_and_scores_fall(sources: Sources) -> None:
    """A list has no item of the user's own and none twice; it is ordered by score."""
    seen = EVENTS.seen().toarray()
    for user, ranked in enumerate(_rank(make_model(item_ridge=1.0, walk=0.5), sources)):
        assert not seen[user, ranked.items].any()
        assert len(set(ranked.items.tolist())) == len(ranked.items) == 10
        assert (np.diff(ranked.scores) <= 0).all()


def test_the_taste_of_a_user_is_learned(sources: Sources) -> None:
    """Nearly all of the first items belong to the user's own group."""
    lists = _rank(make_model(item_ridge=1.0, user_ridge=1.0), sources, 2)
    own = [item % 4 == user % 4 for user, ranked in enumerate(lists) for item in ranked.items]
    assert np.mean(own) > 0.6  # few items of the own group are left for most users


def test_evidence_is_true(sources: Sources) -> None:
    """What an item is explained by holds in the data: the own item is one that leads to it, the people have it."""
    model = make_model(item_ridge=1.0, user_ridge=1.0, walk=0.2, text=1.0, popular_30=5.0)
    seen = EVENTS.seen().toarray() > 0
    weights, walk = sources.item_weights.toarray(), sources.walk.toarray()
    grounds = set()
    for user, ranked in enumerate(_rank(model, sources)):
        for item, (ground, own, people) in zip(ranked.items, ranked.evidence, strict=True):
            grounds.add(ground)
            match ground:
                case Ground.ITEM:
                    assert seen[user, own]
                    assert weights[own, item] > 0 or walk[own, item] > 0
                case Ground.USERS:
                    assert 0 < people <= seen[:, item].sum()
                case Ground.TEXT:
                    others = TEXTS[seen[user]] @ TEXTS[item]
                    assert TEXTS[own] @ TEXTS[item] == pytest.approx(others.max(), abs=1e-5)
                    assert seen[user, own]
                case _:
                    assert ground == Ground.POPULAR
                    assert seen[:, item].any()
    assert grounds == {Ground.ITEM, Ground.USERS, Ground.TEXT, Ground.POPULAR}


def test_new_items_and_users(sources: Sources) -> None:
    """A new item is found by its text; a user without items gets items by a profile, or by popularity."""
    new_texts = np.stack([TEXTS[3], -TEXTS[3]])
    popularity = np.concatenate([sources.popularity, np.zeros((2, len(POPULARITY)))])
    renewed = sources.renew(AS_OF, popularity, np.zeros(EVENTS.items + 2), new_texts)
    histories = sources.histories(EVENTS, USERS[:2])
    for matrix in (histories.own, histories.short, histories.seen):
        matrix.resize((2, EVENTS.items + 2))
        matrix.data[:] = 0
        matrix.eliminate_zeros()
    tastes = np.stack([TEXTS[3], np.zeros(6, np.float32)])
    strangers = type(histories)(histories.own, histories.short, histories.seen, np.array([-1, -1]), tastes)
    first, second = rank(make_model(text=1.0, popular=0.01), renewed, strangers, 40)
    assert {3, EVENTS.items} == set(first.items[:2].tolist())
    assert EVENTS.items + 1 not in first.items[:10]
    by_item = dict(zip(first.items.tolist(), first.evidence, strict=True))
    assert by_item[EVENTS.items][:2] == (Ground.TEXT, -1)
    assert [evidence.ground for evidence in second.evidence[:10]] == [Ground.POPULAR] * 10
    assert second.items[0] == sources.popularity[:, -1].argmax()


def test_a_ranking_survives_its_tables(sources: Sources) -> None:
    """A ranking that is written and read gives the same lists."""
    model = make_model(item_ridge=1.0, user_ridge=0.5, walk=0.2, text=1.0, popular_30=0.5)
    users, items = [f"u{n}" for n in range(EVENTS.users)], [f"i{n}" for n in range(EVENTS.items)]
    tables = to_tables(TrainedRanking(model, sources, users, items, "g"))
    assert tuple(tables) == NAMES
    read = from_tables(lambda name: tables[name])
    assert (read.users, read.items, read.generation) == (users, items, "g")
    assert read.model.settings == SETTINGS
    assert (read.model.ndcg, read.model.short_ndcg) == (0.5, 0.25)
    renewed = read.sources.renew(AS_OF, sources.popularity, sources.age)
    for before, after in zip(_rank(model, sources), _rank(read.model, renewed), strict=True):
        assert before.items.tolist() == after.items.tolist()
        assert before.scores == pytest.approx(after.scores, abs=1e-3)


def test_a_ranking_without_texts_survives_its_tables(sources: Sources) -> None:
    """Items without any text have no vectors, and the text source says nothing."""
    bare = learn_sources(EVENTS, AS_OF, SETTINGS)
    tables = to_tables(TrainedRanking(make_model(walk=1.0), bare, ["u"] * EVENTS.users, ["i"] * EVENTS.items, "g"))
    assert from_tables(lambda name: tables[name]).sources.texts is None
