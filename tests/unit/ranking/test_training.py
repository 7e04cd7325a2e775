"""Training: what is chosen, and from which events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from include.ranking.features import SOURCES
from include.ranking.interactions import DAY_MS, Interactions
from include.ranking.model import SHORT_ITEMS
from include.ranking.training import TooFewUsersError, compare_models, cut_histories, split_events, train
from tests.unit.ranking.made_events import make_events

EVENTS = make_events(users=80, items=24, per_user=8)


def test_the_same_events_give_the_same_model() -> None:
    """Training is a function of events and seed; its report has every decision."""
    lines: list[str] = []
    first = train(EVENTS, None, 0, lines.append)
    again = train(EVENTS, None, 0, lambda line: None)
    assert first.settings == again.settings
    assert (first.weights == again.weights).all()
    assert first.is_split_by_time
    assert {name for name, _, _ in first.grid} >= {"half_life", "own_half_life", "strength", "neighbours", "beta"}
    assert any(line.startswith("full histories") for line in lines)
    assert not first.weights[SOURCES.index("text")]


def test_models_are_compared_on_the_same_users() -> None:
    """A model is not worse than itself; one without any weight is far behind, and the trained one ahead of it."""
    model = train(EVENTS, None, 0, lambda line: None)
    same = compare_models(EVENTS, model, model, None, 0)
    assert not same.is_worse
    assert same.earlier + same.ahead == pytest.approx(model.ndcg)
    nothing = replace(model, weights=np.zeros(len(SOURCES)), short_weights=np.zeros(len(SOURCES)))
    assert compare_models(EVENTS, nothing, model, None, 0).is_worse
    ahead = compare_models(EVENTS, model, nothing, None, 0)
    assert ahead.ahead > ahead.se


def test_without_times_the_split_is_at_random() -> None:
    """Events of a single day have no order to go by, so half-lives are not even tried."""
    events = Interactions(EVENTS.users, EVENTS.items, EVENTS.user, EVENTS.item, EVENTS.at % DAY_MS, EVENTS.weight)
    model = train(events, None, 0, lambda line: None)
    assert not model.is_split_by_time
    assert (model.settings.half_life, model.settings.own_half_life) == (None, None)
    assert "half_life" not in {name for name, _, _ in model.grid}


def test_the_inner_split_tests_on_the_latest_pairs() -> None:
    """About a tenth of the pairs, by the time at which they begin."""
    split, by_time = split_events(EVENTS, 0)
    assert by_time
    pairs = len(np.unique(EVENTS.pair))
    assert split.test.nnz == pytest.approx(pairs / 10, rel=0.1)
    assert split.train.at.max() < split.as_of_ms


def test_short_histories_are_the_latest_items() -> None:
    """A cut history has one to four items, the latest ones of its user, with all of their events."""
    users = np.arange(10)
    cut = cut_histories(EVENTS, users, 0)
    assert set(cut.user.tolist()) == set(users.tolist())
    for user in users:
        own = EVENTS.take(EVENTS.user == user)
        last = {int(item): int(own.at[own.item == item].max()) for item in np.unique(own.item)}
        kept = set(cut.item[cut.user == user].tolist())
        assert 1 <= len(kept) <= SHORT_ITEMS
        assert min(last[item] for item in kept) >= max([last[item] for item in last if item not in kept], default=0)


def test_too_few_users_are_refused() -> None:
    """A handful of users cannot choose anything."""
    few = EVENTS.take(EVENTS.user < 5)
    with pytest.raises(TooFewUsersError, match=r"only \d users"):
        train(few, None, 0, lambda line: None)
