"""Millrace's own ranking without servers: trained and ranked by the functions that the DAGs call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from include.domain.ranking import subtract_centre
from include.ranking.features import learn_sources
from include.ranking.interactions import Interactions, Split
from include.ranking.model import Model
from include.ranking.ranker import rank
from include.ranking.training import train
from tests.quality.peers import Scorer

_LIST = 60


@dataclass(frozen=True)
class Ranker:
    """What was trained. ``score`` is a ``Scorer``; ``ms_per_user`` counts every user that it ranked."""

    model: Model
    score: Scorer
    seconds_per_user: Callable[[], float]


def train_ranker(split: Split, texts: np.ndarray | None, report: Callable[[str], None]) -> Ranker:
    """Train on the train events alone."""
    model = train(split.train, texts, 0, report)
    sources = learn_sources(split.train, split.as_of_ms, model.settings, texts, model.used)
    spent, ranked_users = [0.0], [0]

    def score(events: Interactions, rows: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        histories = sources.histories(events, rows)
        scores = np.full((len(rows), split.train.items), -1e18)
        for row, ranked in enumerate(rank(model, sources, histories, _LIST)):
            scores[row, ranked.items] = np.arange(len(ranked.items), 0, -1)
        spent[0] += time.perf_counter() - began
        ranked_users[0] += len(rows)
        return scores

    return Ranker(model, score, lambda: spent[0] / max(1, ranked_users[0]))


def embed_texts(texts: Sequence[str | None]) -> np.ndarray | None:
    """(items, dimension) float32: centred vectors of the items' texts, by the model of the local embedding server."""
    known = [index for index, text in enumerate(texts) if text]
    if not known:
        return None
    from include.embedding_server.load import load_engine
    from include.embedding_server.settings import ServerSettings

    engine = load_engine(ServerSettings())
    tokens = engine.tokenize([text for text in texts if text])
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    vectors = np.zeros((len(texts), engine.dimension), dtype=np.float32)
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        vectors[[known[index] for index in batch]] = engine.embed([tokens[index] for index in batch])
    vectors[known] = subtract_centre(vectors[known], vectors[known].mean(axis=0))
    return vectors
