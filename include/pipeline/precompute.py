"""The precompute: from changed users and stored engagement to packed lists. Four steps, each may run twice.

select (whose list is due) -> build_profiles (a chunk) -> recommend (a chunk) -> publish (all)

Profiles of every chunk stand before the first list is made, so that the first list of a user sees all neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from operator import itemgetter

import msgspec
import numpy as np
import pyarrow as pa

from include.domain import ranking
from include.domain.generation import Generation
from include.domain.recommendation_list import MAX_ITEMS, pack
from include.pipeline.files import run_folder
from include.pipeline.lists import ListMaker, ttl_of
from include.ports import Audience, BatchStore, Engagement, Graph, Lists, Mark, Profiles, TextVectors
from include.settings import PipelineSettings

#: A list is made again when less than this is left of it: two intervals of the precompute's own schedule.
REFRESH_BEFORE = timedelta(minutes=7)
#: Who asked within this time counts as active.
ASKED_WITHIN = timedelta(minutes=30)
#: The lists of a user with more items than this rest on the latest of them.
ITEMS_PER_USER = 2_000
#: Popular items to choose from: enough that one who knows the most popular ones still gets a full list.
POPULAR_ITEMS = 500
#: The popular list outlives the others: a dead pipeline should age the answers, not empty them.
POPULAR_TTL_S = 24 * 3600


class RunRef(msgspec.Struct, frozen=True):
    """One precompute run: its name, when it was computed and what it looks back from (ms since 1970), its chunks."""

    run: str
    computed_at: int
    as_of: int
    chunks: int


@dataclass(frozen=True)
class Stores:
    """What the precompute reads and writes."""

    audience: Audience
    engagement: Engagement
    text_vectors: TextVectors
    profiles: Profiles
    graph: Graph
    lists: Lists
    files: BatchStore
    generation: Generation


def select(run: str, now_ms: int, settings: PipelineSettings, stores: Stores) -> RunRef:
    """Choose the users: those that changed, and the active ones whose list ends soon. Writes the chunk files."""
    newest = stores.audience.newest_event()
    as_of = now_ms if settings.as_of == "now" or newest is None else newest
    stores.audience.text_centre(stores.generation)  # a new centre changes every user, so it comes first
    marks = stores.audience.changed_users()
    changed = {mark.key for mark in marks}
    due = set(_expiring(now_ms, as_of, settings, stores)) - changed
    users = sorted(changed | due)
    folder = run_folder(run)
    stores.files.write(folder + "marks.arrow", _marks_table(marks))
    popular = stores.engagement.popular(as_of, ranking.POPULAR_HALF_LIFE_DAYS, POPULAR_ITEMS)
    stores.files.write(folder + "popular.arrow", _popular_table(popular))
    chunks = [users[at : at + settings.users_per_chunk] for at in range(0, len(users), settings.users_per_chunk)]
    for index, chunk in enumerate(chunks):
        table = pa.table({"user_id": chunk, "changed": [user in changed for user in chunk]})
        stores.files.write(f"{folder}users-{index:05d}.arrow", table)
    return RunRef(run, now_ms, as_of, len(chunks))


def _expiring(now_ms: int, as_of: int, settings: PipelineSettings, stores: Stores) -> Sequence[str]:
    since = None if settings.active_days is None else as_of - settings.active_days * ranking.DAY_MS
    asked = stores.lists.asked_since(now_ms // 1000 - int(ASKED_WITHIN.total_seconds()))
    active = sorted({*stores.audience.active_users(since), *asked})
    return stores.lists.expiring(stores.generation.name, active, int(REFRESH_BEFORE.total_seconds()))


def build_profiles(ref: RunRef, chunk: int, stores: Stores) -> int:
    """Rebuild the profile of each changed user of a chunk from all of its stored events; how many have one."""
    table = stores.files.read(f"{run_folder(ref.run)}users-{chunk:05d}.arrow")
    users = table.filter(table["changed"])["user_id"].to_pylist()
    counts = stores.audience.text_counts(users)
    vectors = profile_vectors(counts, stores)
    centre = stores.audience.text_centre(stores.generation)
    placed = ranking.centred(np.asarray(list(vectors.values())), centre) if vectors else np.empty((0, 0))
    known = [index for index in range(len(placed)) if placed[index].any()]
    names = list(vectors)
    stores.profiles.put([names[index] for index in known], placed[known])
    return len(known)


def profile_vectors(counts: pa.Table, stores: Stores) -> dict[str, np.ndarray]:
    """The mean of the vectors of each user's texts, each text as often as the user has it. ``counts`` is by user."""
    columns = [counts[name].to_pylist() for name in ("user_id", "text_hash", "events")]
    kept = stores.text_vectors.get(stores.generation, sorted(set(columns[1])))
    means: dict[str, np.ndarray] = {}
    for user, rows in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        known = [(kept[text], times) for _, text, times in rows if text in kept]
        if known:
            means[user] = np.average([vector for vector, _ in known], axis=0, weights=[times for _, times in known])
    return means


def recommend(ref: RunRef, chunk: int, settings: PipelineSettings, stores: Stores) -> int:
    """Make and pack the list of each user of a chunk; how many."""
    folder = run_folder(ref.run)
    users: list[str] = stores.files.read(f"{folder}users-{chunk:05d}.arrow")["user_id"].to_pylist()
    neighbours = _neighbours(users, stores)
    others = {other for row in neighbours for other, _ in row}
    engagements = stores.graph.engagements(sorted(others.union(users)), ITEMS_PER_USER)
    ranked = ranking.rank(users, neighbours, engagements, ref.as_of, MAX_ITEMS)
    maker = ListMaker(stores.audience, _popular(stores.files, ref), ref.computed_at)
    lists = maker.lists(users, ranked, engagements)
    packed = pa.table({"user_id": users, "packed": pa.array([pack(made) for made in lists], type=pa.binary())})
    stores.files.write(f"{folder}lists-{chunk:05d}.arrow", packed)
    return len(users)


def _neighbours(users: Sequence[str], stores: Stores) -> list[list[tuple[str, float]]]:
    """For each user the nearest others; none for a user without a profile."""
    profiles = stores.profiles.get(users)
    known = [user for user in users if user in profiles]
    if not known:
        return [[] for _ in users]
    found = stores.profiles.similar(np.stack([profiles[user] for user in known]), ranking.NEIGHBOURS + 1)
    nearest = {
        user: [(other, value) for other, value in row if other != user][: ranking.NEIGHBOURS]
        for user, row in zip(known, found, strict=True)
    }
    return [nearest.get(user, []) for user in users]


def publish(ref: RunRef, settings: PipelineSettings, stores: Stores) -> int:
    """Put every list and the popular one into Redis, then clear the marks that were read; how many lists."""
    folder, generation = run_folder(ref.run), stores.generation.name
    popular = ListMaker(stores.audience, _popular(stores.files, ref), ref.computed_at).popular_list()
    stores.lists.publish_popular(generation, pack(popular), POPULAR_TTL_S)
    written = 0
    for chunk in range(ref.chunks):
        table = stores.files.read(f"{folder}lists-{chunk:05d}.arrow")
        lists = dict(zip(table["user_id"].to_pylist(), table["packed"].to_pylist(), strict=True))
        ttl = {user: ttl_of(user, ref.computed_at, settings.list_ttl_s) for user in lists}
        stores.lists.publish(generation, lists, ttl)
        written += len(lists)
    stores.lists.make_current(generation)
    marks = stores.files.read(folder + "marks.arrow")
    pairs = zip(marks["key"].to_pylist(), marks["seq"].to_pylist(), strict=True)
    stores.audience.clear_users([Mark(key, seq) for key, seq in pairs])
    stores.files.delete(folder)
    return written


def _marks_table(marks: Sequence[Mark]) -> pa.Table:
    keys = pa.array([mark.key for mark in marks], type=pa.string())
    return pa.table({"key": keys, "seq": pa.array([mark.seq for mark in marks], type=pa.int64())})


def _popular_table(popular: Sequence[tuple[str, float]]) -> pa.Table:
    items = pa.array([item for item, _ in popular], type=pa.string())
    return pa.table({"item_id": items, "score": pa.array([score for _, score in popular], type=pa.float64())})


def _popular(files: BatchStore, ref: RunRef) -> list[tuple[str, float]]:
    table = files.read(run_folder(ref.run) + "popular.arrow")
    return list(zip(table["item_id"].to_pylist(), table["score"].to_pylist(), strict=True))
