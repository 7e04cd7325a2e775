"""Composition root of ``maintain``: every kind of data that gets old, with its setting and its store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from include import bootstrap
from include.pipeline.expire import ExpirePorts, expire
from include.pipeline.maintain import Kind, delete_orphans, find_orphans
from include.settings import Settings
from include.stores.warehouse.warehouse import Warehouse


@contextmanager
def open_kinds(settings: Settings) -> Iterator[list[Kind]]:
    """Every kind. Connects on first use."""
    from include.sources.kafka_retention import KafkaRetention

    keep, letters = settings.pipeline, KafkaRetention(settings.kafka)
    files = bootstrap.open_files(settings)
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        old = warehouse.retention
        batches, failed = keep.keep_batches_days, keep.keep_failed_days
        # That a batch needs a vector is recorded once a day, so a younger one may be in use.
        vectors = keep.keep_text_vectors_days and max(2, keep.keep_text_vectors_days)
        yield [
            Kind(
                "batches", "batches of the ledger, added up by day", batches,
                lambda: old.count_old_batches(batches), lambda: old.archive_old_batches(batches),
            ),
            Kind(
                "ranges", "claims of replays that failed and were given up", failed,
                lambda: old.count_abandoned_ranges(failed), lambda: old.drop_abandoned_ranges(failed),
            ),
            Kind(
                "folders", "files of batches that are not open", failed,
                lambda: len(find_orphans(files, old)), lambda: delete_orphans(files, old),
            ),
            Kind(
                "dead_letters", "topics of dead letters with another retention", keep.keep_dead_letters_days,
                lambda: letters.count_differing(keep.keep_dead_letters_days),
                lambda: letters.set_days(keep.keep_dead_letters_days),
            ),
            Kind(
                "text_vectors", "vectors of texts that no event has", vectors,
                lambda: old.count_unused_vectors(vectors), lambda: old.delete_unused_vectors(vectors),
            ),
            Kind(
                "events", "events, in every store", keep.keep_events_days,
                lambda: warehouse.expiry.count(keep.keep_events_days), lambda: _expire(settings, warehouse),
            ),
        ]  # fmt: skip


def _expire(settings: Settings, warehouse: Warehouse) -> int:
    with ExitStack() as stack:
        others = [name for name in bootstrap.SINKS if name != "warehouse"]
        sinks = [stack.enter_context(closing(bootstrap.open_sink(name, settings))) for name in others]
        return expire(settings.pipeline.keep_events_days, ExpirePorts(warehouse.expiry, sinks))
