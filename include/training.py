"""Composition root of training: what ``train_ranking`` reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from include import bootstrap
from include.pipeline.train import TrainPorts
from include.ports import SimilarItems
from include.settings import MEMORY_SCHEME, Settings


@contextmanager
def open_train_ports(settings: Settings) -> Iterator[TrainPorts]:
    """Connects on first use."""
    with (
        closing(bootstrap.open_pipeline_warehouse(settings)) as warehouse,
        closing(_open_similar_items(settings)) as similar_items,
    ):
        yield TrainPorts(
            log=warehouse.engagement_log,
            models=warehouse.models,
            activity=warehouse.activity,
            text_vectors=warehouse.text_vectors,
            files=bootstrap.open_files(settings),
            similar_items=similar_items,
            generation=settings.embed.generation,
        )


def _open_similar_items(settings: Settings) -> SimilarItems:
    if settings.neo4j.uri.startswith(MEMORY_SCHEME):
        from include.memory_servers import memory_servers

        return memory_servers(settings.neo4j.uri).similar_items
    from include.stores.neo4j_similar import Neo4jSimilarItems

    return Neo4jSimilarItems(settings.neo4j)
