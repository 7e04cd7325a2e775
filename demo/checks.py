"""Count the rows in every store after a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from demo.reconcile import Counts
from include import bootstrap
from include.ports import Lists
from include.settings import Settings


def count_stored(settings: Settings, users: Iterable[Sequence[str]]) -> tuple[Counts, int]:
    """Returns the counts of every store, and the number of hourly engagement rows that differ from a recount.

    ``users`` are the users who must have a list, in chunks.
    """
    stores = _count_sinks(settings)
    with bootstrap.opened(bootstrap.warehouse(settings.warehouse), bootstrap.lists(settings.redis)) as (
        warehouse,
        lists,
    ):
        totals, unique = warehouse.stats.totals(settings.kafka.topic), warehouse.stats.event_count()
        counts = Counts(
            delivered=totals.delivered,
            unique_valid=unique,
            duplicates=totals.valid - unique,
            dead_letters=totals.dead_letters,
            stores={**stores, "warehouse": unique},
            lists=_count_lists(lists, settings.embed.generation.name, users),
        )
        return counts, warehouse.stats.aggregate_difference()


def _count_sinks(settings: Settings) -> dict[str, int]:
    generation, shards = settings.embed.generation, settings.pipeline.shards
    with bootstrap.opened(
        bootstrap.mongo_sink(settings.mongo),
        bootstrap.milvus_sink(settings.milvus, generation, shards),
        bootstrap.neo4j_sink(settings.neo4j),
    ) as sinks:
        return {sink.name: sink.count() for sink in sinks}


def _count_lists(lists: Lists, generation: str, users: Iterable[Sequence[str]]) -> int:
    return sum(len(chunk) - len(lists.expiring(generation, chunk, 0)) for chunk in users)
