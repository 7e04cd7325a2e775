"""Lists by the trained ranking: what a precompute run needs besides the model's files, and the choices of a chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from include.domain.generation import Generation
from include.domain.ranking import Engagements
from include.domain.recommendation_list import ItemSource
from include.pipeline.files import items_file, model_file
from include.pipeline.item_vectors import read_item_vectors
from include.pipeline.lists import Choice
from include.ports import BatchStore, EngagementLog, TextVectors, UserActivity
from include.ranking.features import POPULARITY_HALF_LIVES, Histories
from include.ranking.interactions import Interactions
from include.ranking.popularity import log_days
from include.ranking.ranker import Evidence, Ground, rank
from include.ranking.tables import TrainedRanking, from_tables, read_vectors, vector_column

_SOURCES: Mapping[Ground, ItemSource] = {
    Ground.ITEM: "similar_items",
    Ground.USERS: "similar_users",
    Ground.TEXT: "similar_texts",
    Ground.POPULAR: "popular",
    Ground.NEW: "new",
}


class ItemPorts(Protocol):
    """What ``write_items`` reads and writes."""

    @property
    def log(self) -> EngagementLog: ...
    @property
    def activity(self) -> UserActivity: ...
    @property
    def text_vectors(self) -> TextVectors: ...
    @property
    def files(self) -> BatchStore: ...
    @property
    def generation(self) -> Generation: ...


@dataclass(frozen=True)
class LearnedRanking:
    """The trained ranking with the items, popularity and ages of one run. ``position``: the column of each item."""

    ranking: TrainedRanking
    items: Sequence[str]
    position: Mapping[str, int]
    as_of: int

    @classmethod
    def load(cls, version: str, run: str, as_of: int, generation: str, files: BatchStore) -> LearnedRanking:
        """Read the model and the run's items. Texts of another generation count as missing."""
        ranking = from_tables(lambda name: files.read(model_file(version, name)))
        if ranking.generation != generation:
            ranking = replace(ranking, sources=replace(ranking.sources, texts=None))
        table = files.read(items_file(run))
        row_of = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
        known = set(ranking.items)
        items = [*ranking.items, *(item for item in row_of if item not in known)]
        popularity, age = _find_popularity(items, row_of, table, as_of)
        new = np.array([row_of[item] for item in items[len(known) :]], dtype=np.int64)
        vectors = read_vectors(table["vector"])
        sources = ranking.sources.renew(as_of, popularity, age, None if vectors is None else vectors[new])
        trained = replace(ranking, sources=sources)
        return cls(trained, items, {item: column for column, item in enumerate(items)}, as_of)

    def choose(
        self, users: Sequence[str], engagements: Engagements, profiles: Mapping[str, np.ndarray], limit: int
    ) -> list[list[Choice]]:
        """The best items of each user with what speaks for them. ``profiles``: of users without any engagement."""
        ranking = self.ranking
        ranked = rank(ranking.model, ranking.sources, self._histories(users, engagements, profiles), limit)
        return [
            [
                self._choice(int(item), float(score), evidence)
                for item, score, evidence in zip(row.items, row.scores, row.evidence, strict=True)
            ]
            for row in ranked
        ]

    def _choice(self, item: int, score: float, evidence: Evidence) -> Choice:
        because = None if evidence.item < 0 else self.items[evidence.item]
        return Choice(self.items[item], score, _SOURCES[evidence.ground], because, evidence.users)

    def _histories(
        self, users: Sequence[str], engagements: Engagements, profiles: Mapping[str, np.ndarray]
    ) -> Histories:
        row_of = {user: row for row, user in enumerate(users)}
        rows = np.array([row_of.get(user, -1) for user in engagements.users], dtype=np.int64)
        # An item may be newer than the run's items; it cannot be in the list either.
        columns = np.array([self.position.get(item, -1) for item in engagements.items], dtype=np.int64)
        user, item = rows[engagements.user_index], columns[engagements.item_index]
        keep = (user >= 0) & (item >= 0)
        events = Interactions(
            users=len(users),
            items=len(self.items),
            user=user[keep].astype(np.int32),
            item=item[keep].astype(np.int32),
            at=engagements.at[keep],
            weight=engagements.weight[keep],
        )
        learned = {user: row for row, user in enumerate(self.ranking.users)}
        numbers = np.array([learned.get(user, -1) for user in users], dtype=np.int64)
        sources = self.ranking.sources
        histories = sources.histories(events, np.arange(len(users)), numbers, self.as_of)
        if sources.texts is None:
            return histories
        tastes = np.zeros((len(users), sources.texts.shape[1]), dtype=np.float32)
        for name, vector in profiles.items():
            tastes[row_of[name]] = vector
        return replace(histories, profiles=tastes)


def _find_popularity(
    items: Sequence[str], row_of: Mapping[str, int], table: pa.Table, as_of: int
) -> tuple[np.ndarray, np.ndarray]:
    """As in ``log_popularity`` and ``log_age``; items that nobody has any more are as old as the oldest."""
    rows = np.array([row_of.get(item, -1) for item in items], dtype=np.int64)
    known = rows >= 0
    popularity = np.zeros((len(items), len(POPULARITY_HALF_LIVES)))
    age = np.zeros(len(items))
    if known.any():
        scores = np.array(table["scores"].to_pylist(), dtype=np.float64)
        first = table["first_at"].to_numpy()
        popularity[known] = np.log1p(scores[rows[known]])
        age = log_days(as_of - np.where(known, first[rows], first.min()))
    return popularity, age


def write_items(run: str, version: str, as_of: int, ports: ItemPorts) -> None:
    """Write the items of a run, with the text vectors of those that the model does not know."""
    table = ports.log.summarise_items(as_of, POPULARITY_HALF_LIVES)
    known = set(ports.files.read(model_file(version, "items"))["item_id"].to_pylist())
    items = table["item_id"].to_pylist()
    new = [item for item in items if item not in known]
    vectors = np.zeros((len(items), ports.generation.dimension), dtype=np.float32)
    found = read_item_vectors(new, ports.activity, ports.text_vectors, ports.generation)
    if found is not None:
        vectors[[row for row, item in enumerate(items) if item not in known]] = found
    ports.files.write(items_file(run), table.append_column("vector", vector_column(vectors, len(items))))
