"""The precompute: from changed users and stored engagement to packed lists. Four steps; each may run twice.

select_users -> build_profiles (per chunk) -> recommend (per chunk) -> publish (all chunks)

The profiles of every chunk are stored before the first list is built, so that a user's first list sees all neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import batched, groupby
from operator import itemgetter

import msgspec
import numpy as np
import pyarrow as pa

from include.domain import ranking
from include.domain.generation import Generation
from include.domain.identity import digest
from include.domain.mark import Mark
from include.domain.recommendation_list import MAX_ITEMS, RecommendationList, pack
from include.errors import PermanentError, StagedBatchMissingError
from include.pipeline.files import RUNS_FOLDER, published_file, run_folder
from include.pipeline.learned import LearnedRanking, write_items
from include.pipeline.lists import MIN_TTL_S, ListBuilder, find_own_items, list_ttl_s, similar_choices
from include.ports import (
    BatchStore,
    Engagement,
    EngagementLog,
    Graph,
    Lists,
    Profiles,
    RankingModels,
    TextVectors,
    UserActivity,
)
from include.settings import PipelineSettings

#: A list is rebuilt when less than this is left of its TTL, because it would not outlast the next run.
REFRESH_BEFORE = timedelta(seconds=MIN_TTL_S)
#: A user whose list was requested within this time counts as active.
READER_WINDOW = timedelta(minutes=30)
#: Airflow maps a task over at most 1,024 chunks (``max_map_length``). With more users, the chunks get larger.
MAX_CHUNKS = 1_000
#: Only the latest items of a user count, at most this many.
ITEMS_PER_USER = 2_000
#: Popular items to choose from: enough that a user who has the most popular ones still gets a full list.
POPULAR_ITEMS = 500
#: The popular list outlives the others: a dead pipeline should make answers old, not empty.
POPULAR_TTL_S = 24 * 3600


class RunRef(msgspec.Struct, frozen=True):
    """One precompute run: its name, its time and the time that recency counts from (ms since 1970), the generation of
    its profiles and lists, the number of chunks, and the version of the trained ranking, empty before the first.
    """

    run: str
    computed_at: int
    as_of: int
    generation: str
    chunks: int
    model: str = ""


@dataclass(frozen=True)
class PrecomputePorts:
    """What the precompute reads and writes."""

    activity: UserActivity
    engagement: Engagement
    text_vectors: TextVectors
    profiles: Profiles
    graph: Graph
    log: EngagementLog
    models: RankingModels
    lists: Lists
    files: BatchStore
    generation: Generation


def select_users(run_id: str, settings: PipelineSettings, ports: PrecomputePorts) -> RunRef:
    """Choose users with changes, and active users whose list expires soon. Writes the chunk files.

    Deletes the files of earlier runs, so only one run may be active at a time.
    """
    for name in ports.files.find_folders(RUNS_FOLDER):
        ports.files.delete(f"{RUNS_FOLDER}{name}/")
    # Times of lists decide which one is newer, so they must not come from workers whose clocks may differ.
    now_ms = ports.activity.read_clock_ms()
    run = digest(run_id.encode())  # names a folder, and Airflow's run ids contain colons and plus signs
    newest = ports.activity.find_newest_event_ms()
    as_of = now_ms if settings.as_of == "now" or newest is None else newest
    centre = ports.activity.refresh_text_centre(ports.generation)  # a new centre changes every user, so it comes first
    marks = ports.activity.read_changed_users()
    changed = {mark.key for mark in marks}
    users = sorted(changed.union(_expiring_users(now_ms, as_of, settings, ports)))
    folder = run_folder(run)
    ports.files.write(folder + "centre.arrow", _centre_table(centre))
    ports.files.write(folder + "marks.arrow", _marks_table(marks))
    popular = ports.engagement.rank_popular(as_of, ranking.POPULAR_HALF_LIFE_DAYS, POPULAR_ITEMS)
    ports.files.write(folder + "popular.arrow", _popular_table(popular))
    chunks = list(batched(users, max(settings.users_per_chunk, math.ceil(len(users) / MAX_CHUNKS))))
    for index, chunk in enumerate(chunks):
        table = pa.table({"user_id": chunk, "changed": [user in changed for user in chunk]})
        ports.files.write(f"{folder}users-{index:05d}.arrow", table)
    model = ports.models.read_current()
    if model is not None:
        write_items(run, model.version, as_of, ports)
    return RunRef(run, now_ms, as_of, ports.generation.name, len(chunks), "" if model is None else model.version)


def _check_generation(ref: RunRef, ports: PrecomputePorts) -> None:
    """The centre and the lists in the run's files belong to the generation it began with: never publish them as another
    one's.
    """
    if ref.generation != ports.generation.name:
        raise PermanentError(
            f"this run began with the generation {ref.generation}, but embed_default now says {ports.generation.name}: "
            "nothing is lost, the next run builds the lists of the new generation"
        )


def _expiring_users(now_ms: int, as_of: int, settings: PipelineSettings, ports: PrecomputePorts) -> Sequence[str]:
    since = None if settings.active_days is None else as_of - settings.active_days * ranking.DAY_MS
    readers = ports.lists.read_recent_readers(now_ms // 1000 - int(READER_WINDOW.total_seconds()))
    active = set(ports.activity.find_active_users(since))
    others = [user for user in readers if user not in active]
    known = ports.activity.filter_known_users(others)
    # Anyone can ask the reader for any user: without this, invented users would get lists, again and again.
    ports.lists.forget_readers(sorted(set(others).difference(known)))
    active.update(known)
    return ports.lists.find_expiring(ports.generation.name, sorted(active), int(REFRESH_BEFORE.total_seconds()))


def build_profiles(ref: RunRef, chunk: int, ports: PrecomputePorts) -> int:
    """Rebuild the profiles of a chunk's changed users from all of their stored events.

    Deletes the profile of a user without any text. Returns the number of users who have a profile.
    """
    _check_generation(ref, ports)
    table = ports.files.read(f"{run_folder(ref.run)}users-{chunk:05d}.arrow")
    changed = table.filter(table["changed"])["user_id"].to_pylist()
    means = mean_vectors(ports.activity.count_texts(changed), ports)
    profiles = _centre_profiles(means, _read_centre(ports.files, ref))
    if profiles:
        ports.profiles.put(list(profiles), np.stack(list(profiles.values())))
    # Read first: most of these users never had a profile, and to Milvus every deletion is a write.
    ports.profiles.delete(list(ports.profiles.get([user for user in changed if user not in profiles])))
    return len(profiles)


def _centre_profiles(means: Mapping[str, np.ndarray], centre: np.ndarray | None) -> dict[str, np.ndarray]:
    """The profile of each user, without those whose mean is the centre itself."""
    if not means:
        return {}
    vectors = ranking.subtract_centre(np.asarray(list(means.values())), centre)
    return {user: vector for user, vector in zip(means, vectors, strict=True) if vector.any()}


def mean_vectors(counts: pa.Table, ports: PrecomputePorts) -> dict[str, np.ndarray]:
    """The mean of each user's text vectors, weighted by how often the user has each text.

    ``counts`` has (user_id, text_hash, events) rows, sorted by user.
    """
    columns = [counts[name].to_pylist() for name in ("user_id", "text_hash", "events")]
    stored = ports.text_vectors.get(ports.generation, sorted(set(columns[1])))
    means: dict[str, np.ndarray] = {}
    for user, rows in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        weighted = [(stored[text], events) for _, text, events in rows if text in stored]
        if weighted:
            means[user] = np.average([vector for vector, _ in weighted], axis=0, weights=[n for _, n in weighted])
    return means


def recommend(ref: RunRef, chunk: int, ports: PrecomputePorts) -> int:
    """Build and pack the list of each user of a chunk. Returns the number of users."""
    _check_generation(ref, ports)
    folder = run_folder(ref.run)
    users: list[str] = ports.files.read(f"{folder}users-{chunk:05d}.arrow")["user_id"].to_pylist()
    builder = ListBuilder(ports.activity, _read_popular(ports.files, ref), ref.computed_at)
    lists = _build_learned(users, ref, builder, ports) if ref.model else _build_similar(users, ref, builder, ports)
    packed = pa.array([pack(recommendations) for recommendations in lists], type=pa.binary())
    ports.files.write(f"{folder}lists-{chunk:05d}.arrow", pa.table({"user_id": users, "packed": packed}))
    return len(users)


def _build_learned(
    users: Sequence[str], ref: RunRef, builder: ListBuilder, ports: PrecomputePorts
) -> list[RecommendationList]:
    ranking = LearnedRanking.load(ref.model, ref.run, ref.as_of, ref.generation, ports.files)
    engagements = ports.graph.read_engagements(users, ITEMS_PER_USER)
    own = find_own_items(users, engagements)
    profiles = ports.profiles.get([user for user in users if user not in own])
    choices = ranking.choose(users, engagements, profiles, MAX_ITEMS)
    return builder.build_lists(users, choices, own, learned=True)


def _build_similar(
    users: Sequence[str], ref: RunRef, builder: ListBuilder, ports: PrecomputePorts
) -> list[RecommendationList]:
    """By similar texts, before the first training."""
    neighbours = _find_neighbours(users, ports.profiles)
    others = {other for row in neighbours for other, _ in row}
    engagements = ports.graph.read_engagements(sorted(others.union(users)), ITEMS_PER_USER)
    ranked = ranking.rank(users, neighbours, engagements, ref.as_of, MAX_ITEMS)
    choices = similar_choices(ranked, engagements)
    return builder.build_lists(users, choices, find_own_items(users, engagements), learned=False)


def _find_neighbours(users: Sequence[str], profiles: Profiles) -> list[list[tuple[str, float]]]:
    """The nearest other users of each user; none for a user without a profile."""
    vectors = profiles.get(users)
    with_profile = [user for user in users if user in vectors]
    if not with_profile:
        return [[] for _ in users]
    hits = profiles.search(np.stack([vectors[user] for user in with_profile]), ranking.NEIGHBOURS + 1)
    nearest = {
        user: [(other, similarity) for other, similarity in row if other != user][: ranking.NEIGHBOURS]
        for user, row in zip(with_profile, hits, strict=True)
    }
    return [nearest.get(user, []) for user in users]


def publish(ref: RunRef, settings: PipelineSettings, ports: PrecomputePorts) -> int:
    """Put every list and the popular one into Redis, clear the marks that were read, and delete the run's files.

    Returns the number of lists, also when it has done all this before.
    """
    _check_generation(ref, ports)
    published = _read_published(ports.files, ref)
    if published is None:
        published = _publish_lists(ref, settings, ports)
        ports.activity.clear_changed_users(_read_marks(ports.files, ref))
        ports.files.write(published_file(ref.run), pa.table({"lists": [published]}))
    ports.files.delete(run_folder(ref.run))
    return published


def _publish_lists(ref: RunRef, settings: PipelineSettings, ports: PrecomputePorts) -> int:
    folder, generation = run_folder(ref.run), ref.generation
    popular = ListBuilder(ports.activity, _read_popular(ports.files, ref), ref.computed_at).build_popular_list()
    ports.lists.publish_popular(generation, pack(popular), POPULAR_TTL_S)
    published = 0
    for chunk in range(ref.chunks):
        table = ports.files.read(f"{folder}lists-{chunk:05d}.arrow")
        lists = dict(zip(table["user_id"].to_pylist(), table["packed"].to_pylist(), strict=True))
        ttl = {user: list_ttl_s(user, ref.computed_at, settings.list_ttl_s) for user in lists}
        ports.lists.publish(generation, lists, ttl)
        published += len(lists)
    ports.lists.set_current_generation(generation)
    return published


def _read_published(files: BatchStore, ref: RunRef) -> int | None:
    try:
        return int(files.read(published_file(ref.run))["lists"][0].as_py())
    except StagedBatchMissingError:
        return None


def _centre_table(centre: np.ndarray | None) -> pa.Table:
    return pa.table({"centre": pa.array([] if centre is None else centre, type=pa.float32())})


def _read_centre(files: BatchStore, ref: RunRef) -> np.ndarray | None:
    centre: np.ndarray = files.read(run_folder(ref.run) + "centre.arrow")["centre"].to_numpy()
    return centre if len(centre) else None


def _marks_table(marks: Sequence[Mark]) -> pa.Table:
    keys = pa.array([mark.key for mark in marks], type=pa.string())
    return pa.table({"key": keys, "seq": pa.array([mark.seq for mark in marks], type=pa.int64())})


def _read_marks(files: BatchStore, ref: RunRef) -> list[Mark]:
    table = files.read(run_folder(ref.run) + "marks.arrow")
    return [Mark(key, seq) for key, seq in zip(table["key"].to_pylist(), table["seq"].to_pylist(), strict=True)]


def _popular_table(popular: Sequence[tuple[str, float]]) -> pa.Table:
    items = pa.array([item for item, _ in popular], type=pa.string())
    return pa.table({"item_id": items, "score": pa.array([score for _, score in popular], type=pa.float64())})


def _read_popular(files: BatchStore, ref: RunRef) -> list[tuple[str, float]]:
    table = files.read(run_folder(ref.run) + "popular.arrow")
    return list(zip(table["item_id"].to_pylist(), table["score"].to_pylist(), strict=True))
