"""Counting what is there after the run, in every store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from demo.reconcile import Counts
from include import bootstrap
from include.ports import Lists
from include.settings import Settings


def found_counts(settings: Settings, users: Iterable[Sequence[str]]) -> tuple[Counts, int]:
    """The counts of every store, and how many rows of the hourly engagement differ from a recount.

    ``users`` are those who must have a list, in chunks.
    """
    stores = _store_counts(settings)
    with bootstrap.opened(bootstrap.warehouse(settings.warehouse), bootstrap.lists(settings.redis)) as (house, lists):
        totals, unique = house.inventory.totals(settings.kafka.topic), house.inventory.event_count()
        counts = Counts(
            delivered=totals.delivered,
            unique_valid=unique,
            duplicates=totals.valid - unique,
            dead_letters=totals.dead_letters,
            stores={**stores, "warehouse": unique},
            lists=_list_count(lists, settings.embed.generation.name, users),
        )
        return counts, house.inventory.aggregate_difference()


def _store_counts(settings: Settings) -> dict[str, int]:
    generation, shards = settings.embed.generation, settings.pipeline.shards
    with bootstrap.opened(
        bootstrap.mongo_sink(settings.mongo),
        bootstrap.milvus_sink(settings.milvus, generation, shards),
        bootstrap.neo4j_sink(settings.neo4j),
    ) as sinks:
        return {sink.name: sink.count() for sink in sinks}


def _list_count(lists: Lists, generation: str, users: Iterable[Sequence[str]]) -> int:
    return sum(len(chunk) - len(lists.expiring(generation, chunk, 0)) for chunk in users)
