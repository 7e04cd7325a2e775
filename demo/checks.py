"""Count the rows in every store after a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing

from demo.reconcile import Counts
from include import bootstrap
from include.ports import Lists
from include.settings import Settings


def count_stored(settings: Settings, users: Iterable[Sequence[str]]) -> tuple[Counts, int]:
    """Returns the counts of every store, and the number of hourly engagement rows that differ from a recount.

    ``users`` are the users who must have a list, in chunks.
    """
    stores = bootstrap.count_sinks(settings)
    with closing(bootstrap.open_warehouse(settings)) as warehouse, closing(bootstrap.open_lists(settings)) as lists:
        totals, unique = warehouse.stats.read_totals(settings.kafka.topic), stores["warehouse"]
        counts = Counts(
            delivered=totals.delivered,
            unique_valid=unique,
            duplicates=totals.valid - unique,
            dead_letters=totals.dead_letters,
            stores=stores,
            lists=_count_lists(lists, settings.embed.generation.name, users),
        )
        return counts, warehouse.stats.count_aggregate_differences()


def _count_lists(lists: Lists, generation: str, users: Iterable[Sequence[str]]) -> int:
    return sum(len(chunk) - len(lists.find_expiring(generation, chunk, 0)) for chunk in users)
