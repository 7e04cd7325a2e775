"""Compare Millrace's ranking with its peers on a file of events: ``make quality EVENTS=file CUT=date``.

Everything is trained on the events before the cut, settings are chosen on an inner split of these, and every method
ranks all items that were seen, without the user's own. No servers: the functions are those that the DAGs call.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from include.errors import ConfigurationError, MillraceError
from include.ranking.evaluation import standard_error
from include.ranking.interactions import Interactions, Split
from include.ranking.training import begin_trial, cut_histories
from tests.quality.data import EventFile, judged_users, read_events, split
from tests.quality.millrace import embed_texts, train_ranker
from tests.quality.peers import PEERS, Scorer, choose
from tests.quality.report import print_report, write_report
from tests.quality.scoring import UserScores, score_users

_SEED = 0

type Say = Callable[[str], None]


def evaluate(data: EventFile, cut: str, say: Say) -> dict[str, Any]:
    """The report: by method its measures on all judged users and on the slices, and ms per user."""
    outer = split(data.events, cut)
    users, few = judged_users(outer), judged_users(outer, short=True)
    if not len(users):
        raise ConfigurationError(f"CUT={cut} leaves no user with 5 items before and 1 new item after it")
    events = len(outer.train.at)
    say(f"{events:,} events of {len(np.unique(outer.train.user)):,} users before the cut; {len(users):,} are judged")
    slices = {"slice_1_4": (few, None), "cut_1_4": (users, cut_histories(outer.train, users, _SEED))}
    ranker = train_ranker(outer, embed_texts(data.texts), say)
    results = {"millrace": _score(outer, users, slices, ranker.score, can_cut=True)}
    _say_result("millrace", results["millrace"], say)
    trial = begin_trial(outer.train, _SEED)
    chosen: dict[str, Any] = {"millrace": [[str(each) for each in line] for line in ranker.model.grid]}
    for peer in PEERS:
        found = choose(peer, trial.split, trial.by_time, trial.users)
        if found is None:
            say(f"{peer.name}: not on such data")
            continue
        setting, tried = found
        chosen[peer.name] = [[str(dict(each)), score] for each, score in tried]
        results[peer.name] = _score(outer, users, slices, peer.fit(outer, setting), can_cut=peer.can_cut)
        _say_result(f"{peer.name} {dict(setting)}", results[peer.name], say)
    own = results["millrace"]["all"]
    return {
        "cut": cut,
        "users": len(users),
        "users_1_4": len(few),
        "methods": {name: _describe(parts, own, outer) for name, parts in results.items()},
        "ms_per_user": 1_000 * ranker.seconds_per_user(),
        "grids": chosen,
    }


def _score(
    outer: Split,
    users: np.ndarray,
    slices: dict[str, tuple[np.ndarray, Interactions | None]],
    score: Scorer,
    *,
    can_cut: bool,
) -> dict[str, UserScores]:
    parts = {"all": score_users(outer, users, score)}
    for name, (rows, histories) in slices.items():
        if len(rows) and (can_cut or histories is None):
            parts[name] = score_users(outer, rows, score, histories)
    return parts


def _describe(parts: dict[str, UserScores], own: UserScores, outer: Split) -> dict[str, Any]:
    difference = own.ndcg - parts["all"].ndcg
    return {
        **parts["all"].summarise(outer),
        **{name: scores.summarise(outer) for name, scores in parts.items() if name != "all"},
        "millrace_ahead": float(difference.mean()),
        "millrace_ahead_se": standard_error(difference),
    }


def _say_result(name: str, parts: dict[str, UserScores], say: Say) -> None:
    say(f"{name}: NDCG@10 {parts['all'].ndcg.mean():.4f}, Recall@20 {parts['all'].recall.mean():.4f}")


def main() -> int:
    """Returns 0, or 1 with a message that names what to change."""
    parser = argparse.ArgumentParser(prog="python -m tests.quality", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--events", type=Path, required=True, help="events as JSON lines, .gz or not")
    parser.add_argument("--cut", required=True, help="a date, leave-last-20%% or random-20%%:seed")
    parser.add_argument("--report", type=Path, default=Path(".local/reports/quality.json"))
    options = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    try:
        if not options.events.is_file():
            raise ConfigurationError(f"EVENTS={options.events} does not exist")
        report = evaluate(read_events(options.events), options.cut, say)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_report(report, options.report)
    print_report(report)
    print(f"{time.monotonic() - began:,.0f} s; the grids and slices are in {options.report}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
