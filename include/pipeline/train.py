"""train_ranking: choose and learn a ranking from every stored event, and put it into service if it is not worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.domain import ranking
from include.domain.generation import Generation
from include.domain.ranking_model import RankingModel, model_version
from include.errors import PermanentError
from include.pipeline.files import model_file, model_folder
from include.pipeline.item_vectors import read_item_vectors
from include.ports import BatchStore, EngagementLog, RankingModels, SimilarItems, TextVectors, UserActivity
from include.ranking.dataset import Dataset, build_dataset
from include.ranking.features import learn_sources
from include.ranking.model import Model
from include.ranking.tables import TrainedRanking, decode_settings, encode_settings, to_tables
from include.ranking.training import Comparison, TooFewUsersError, compare_models, train
from include.settings import PipelineSettings

#: The inner split and its folds are drawn with this seed: the same events give the same model.
SEED = 0
#: Models that are kept to roll back to, besides the one in service.
KEPT_MODELS = 5
#: SIMILAR relationships of each item.
SIMILAR_ITEMS = 10

#: Called with each decision, in words.
type Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainPorts:
    """What training reads and writes."""

    log: EngagementLog
    models: RankingModels
    activity: UserActivity
    text_vectors: TextVectors
    files: BatchStore
    similar_items: SimilarItems
    generation: Generation


@dataclass(frozen=True)
class Trained:
    """The outcome; ``comparison`` with the model that was in service, on the same inner split."""

    model: RankingModel
    is_promoted: bool
    comparison: Comparison | None


def is_training_due(settings: PipelineSettings, ports: TrainPorts) -> bool:
    """Whether there are enough events, and no model is in service or the last one was trained too long ago."""
    if ports.log.count() < settings.train_min_engagements:
        return False
    last = max((model.trained_at for model in ports.models.find()), default=None)
    return last is None or ports.activity.read_clock_ms() - last >= settings.train_every_days * ranking.DAY_MS


def train_ranking(settings: PipelineSettings, ports: TrainPorts, report: Report) -> Trained:
    """Train on every stored event. Raises ``PermanentError`` if there is too little to choose from."""
    now_ms = ports.activity.read_clock_ms()
    data = build_dataset(ports.log.scan())
    as_of = now_ms if settings.as_of == "now" or not len(data.events.at) else int(data.events.at.max())
    report(f"{len(data.events.at):,} engagements of {len(data.users):,} users with {len(data.items):,} items")
    texts = read_item_vectors(data.items, ports.activity, ports.text_vectors, ports.generation)
    card: list[str] = []

    def note(line: str) -> None:
        card.append(line)
        report(line)

    try:
        chosen = train(data.events, texts, SEED, note)
    except TooFewUsersError as error:
        raise PermanentError(f"too little to train on: {error}; see MILLRACE_TRAIN_MIN_ENGAGEMENTS") from None
    model = _store(data, chosen, texts, as_of, now_ms, card, ports)
    comparison = _compare_with_current(model, data, chosen, texts, ports, report)
    is_worse = comparison is not None and comparison.is_worse
    if not is_worse:
        put_into_service(model.version, ports)
    report(f"version {model.version}: {'worse than the one in service, not promoted' if is_worse else 'in service'}")
    _drop_old(ports)
    return Trained(model, not is_worse, comparison)


def put_into_service(version: str, ports: TrainPorts) -> None:
    """The next precompute uses this version, and Neo4j shows its similar items.

    Raises ``ConfigurationError`` if it is not stored.
    """
    ports.models.promote(version, ports.activity.read_clock_ms())
    items = ports.files.read(model_file(version, "items"))["item_id"].to_pylist()
    rows = find_similar(ports.files.read(model_file(version, "item_weights")), items)
    ports.similar_items.replace(version, rows)


def find_similar(weights: pa.Table, items: Sequence[str]) -> list[tuple[str, str, float]]:
    """(item, other item, weight): for each item the others that its weight speaks for most.

    ``weights``: (row, column, value), the item ridge.
    """
    row, column, value = (weights[name].to_numpy() for name in ("row", "column", "value"))
    order = np.lexsort((column, -value, row))
    order = order[value[order] > 0]
    first = np.searchsorted(row[order], row[order])
    best = order[np.arange(len(order)) - first < SIMILAR_ITEMS]
    return [(items[row[each]], items[column[each]], float(value[each])) for each in best]


def _compare_with_current(
    model: RankingModel, data: Dataset, chosen: Model, texts: np.ndarray | None, ports: TrainPorts, report: Report
) -> Comparison | None:
    current = ports.models.read_current()
    if current is None or current.version == model.version:
        return None
    earlier, _ = decode_settings(current.settings)
    comparison = compare_models(data.events, chosen, earlier, texts, SEED)
    difference = f"{comparison.ahead:+.4f} ± {comparison.se:.4f}"
    report(f"version {current.version}, in service: NDCG@10 {comparison.earlier:.4f} here; the new one {difference}")
    return comparison


def _store(
    data: Dataset,
    chosen: Model,
    texts: np.ndarray | None,
    as_of: int,
    now_ms: int,
    card: Sequence[str],
    ports: TrainPorts,
) -> RankingModel:
    # The same events give the same version, whenever it is trained.
    version = model_version(encode_settings(chosen, 0), int(data.events.at.max()), len(data.events.at))
    sources = learn_sources(data.events, as_of, chosen.settings, texts, chosen.used)
    users = data.users if sources.decayed.shape[0] else []
    for name, table in to_tables(TrainedRanking(chosen, sources, users, data.items, ports.generation.name)).items():
        ports.files.write(model_file(version, name), table)
    model = RankingModel(
        version=version,
        trained_at=now_ms,
        as_of=as_of,
        users=len(data.users),
        items=len(data.items),
        events=len(data.events.at),
        ndcg=chosen.ndcg,
        short_ndcg=chosen.short_ndcg,
        settings=encode_settings(chosen, as_of),
        card="\n".join(card),
    )
    ports.models.add(model)
    return model


def _drop_old(ports: TrainPorts) -> None:
    current = ports.models.read_current()
    old = [model for model in ports.models.find() if current is None or model.version != current.version]
    for model in old[KEPT_MODELS:]:
        ports.models.drop(model.version)
        ports.files.delete(model_folder(model.version))
