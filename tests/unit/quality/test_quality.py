"""The comparison of rankings: its data, its measures, its peers and its report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from include.errors import ConfigurationError
from include.ranking.interactions import DAY_MS
from include.ranking.training import begin_trial
from tests.quality import __main__ as quality
from tests.quality.data import judged_users, read_events, split
from tests.quality.peers import PEERS, Implicit, Peer, choose
from tests.quality.report import print_report, write_report
from tests.quality.scoring import score_users
from tests.unit.ranking.made_events import make_events

EVENTS = make_events(users=100, items=32, per_user=12)
OUTER = split(EVENTS, "leave-last-20%")
OWN_PEERS = [peer for peer in PEERS if not isinstance(peer, Implicit)]
PERSONAL_PEERS = [peer for peer in OWN_PEERS if not peer.name.startswith("popularity")]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up events as a file, with a line that isn't a valid event, an old revision and a message."""
    lines = [
        {
            "user_id": f"u{user}", "message_id": f"m{number}", "kind": "purchase", "item_id": f"i{item}", "version": 1,
            "occurred_at": datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds"),
        }
        for number, (user, item, at) in enumerate(zip(EVENTS.user, EVENTS.item, EVENTS.at.tolist(), strict=True))
    ]  # fmt: skip
    old = {**lines[0], "version": 0, "item_id": "other"}
    message = {**lines[1], "message_id": "hello", "kind": "message", "item_id": None, "text": "hello"}
    path = tmp_path_factory.mktemp("quality") / "events.jsonl"
    path.write_text("\n".join(["no event", *map(json.dumps, [*lines, old, message])]), encoding="utf-8")
    return path


def test_a_file_is_read_as_the_pipeline_stores_it(path: Path) -> None:
    """Of revisions the winner counts; invalid lines and events without an item are left out."""
    data = read_events(path)
    assert len(data.events.at) == len(EVENTS.at)
    assert "other" not in data.items
    assert data.texts == [None] * len(data.items)
    assert sorted(data.events.at.tolist()) == sorted(EVENTS.at.tolist())


@pytest.mark.parametrize("cut", ["yesterday", "leave-last-x%", "random-200%:1", "random-20%:x", "leave-last-0%"])
def test_a_wrong_cut_is_explained(cut: str) -> None:
    """The error names the setting and the three forms."""
    with pytest.raises(ConfigurationError, match=r"CUT=.*leave-last-20% or random-20%:seed"):
        split(EVENTS, cut)


def test_cuts() -> None:
    """By date, by the last share of the events, and at random."""
    assert split(EVENTS, "1970-02-01").as_of_ms == 31 * DAY_MS
    assert len(OUTER.train.at) == pytest.approx(0.8 * len(EVENTS.at), abs=2)
    assert split(EVENTS, "random-20%:3").test.nnz > 0


def test_own_and_unknown_items_are_not_ranked() -> None:
    """Whatever is in train is the user's own; an item that nobody had before the cut cannot be known."""
    train = OUTER.train.take(OUTER.train.item != 5)
    outer = type(OUTER)(train, OUTER.test, OUTER.as_of_ms)
    users = judged_users(outer)
    scores = score_users(outer, users, lambda events, rows: np.ones((len(rows), EVENTS.items)))
    seen = train.seen().toarray() > 0
    for user, items in zip(users, scores.items, strict=True):
        ranked = items[: (~seen[user]).sum() - 1]
        assert not seen[user, ranked].any()
        assert 5 not in ranked


def test_a_perfect_ranking_has_the_perfect_score() -> None:
    """Ranking exactly the later items first gives 1 on every measure."""
    users = judged_users(OUTER)
    scores = score_users(OUTER, users, lambda events, rows: OUTER.test[rows].toarray().astype(float))
    summary = scores.summarise(OUTER)
    assert (summary["ndcg@10"], summary["recall@20"], summary["hr@10"], summary["se"]) == (1, 1, 1, 0)
    assert 0 < summary["coverage"] <= 1


@pytest.mark.parametrize("peer", PERSONAL_PEERS, ids=lambda peer: peer.name)
def test_every_peer_learns(peer: Peer) -> None:
    """Each personal peer is far better than chance on tastes that are easy to see."""
    trial = begin_trial(OUTER.train, 0)
    found = choose(peer, trial.split, trial.by_time, trial.users)
    assert found is not None
    users = judged_users(OUTER)
    random = np.random.default_rng(0)
    chance = score_users(OUTER, users, lambda events, rows: random.random((len(rows), EVENTS.items)))
    scores = score_users(OUTER, users, peer.fit(OUTER, found[0]))
    assert scores.ndcg.mean() > 1.3 * chance.ndcg.mean()


def test_popularity_counts_users() -> None:
    """The popular peers rank by the number of users, all time or lately."""
    score = PEERS[0].fit(OUTER, {"half_life": None})(EVENTS, np.array([0, 1]))
    assert (score == OUTER.train.seen().sum(axis=0)).all()
    recent = PEERS[1].fit(OUTER, {"half_life": 7})(EVENTS, np.array([0]))[0]
    assert (recent <= score[0]).all()


def test_the_report(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has every method with its measures and slices, and how far Millrace is ahead; the table shows the same."""
    monkeypatch.setattr(quality, "PEERS", [peer for peer in OWN_PEERS if peer.name in ("popularity", "ItemKNN")])
    report = quality.evaluate(read_events(path), "leave-last-20%", lambda line: None)
    assert report["methods"].keys() == {"millrace", "popularity", "ItemKNN"}
    for row in report["methods"].values():
        assert row.keys() >= {"ndcg@10", "recall@20", "hr@10", "coverage", "novelty", "se", "cut_1_4"}
    assert report["methods"]["millrace"]["millrace_ahead"] == 0
    assert report["methods"]["millrace"]["ndcg@10"] > 1.2 * report["methods"]["popularity"]["ndcg@10"]
    assert report["ms_per_user"] > 0
    write_report(report, tmp_path / "reports" / "quality.json")
    assert json.loads((tmp_path / "reports" / "quality.json").read_text())["cut"] == "leave-last-20%"
    print_report(report)
    shown = capsys.readouterr().out
    assert f"{report['methods']['ItemKNN']['ndcg@10']:.4f}" in shown
    assert "█" in shown
