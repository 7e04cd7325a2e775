"""Composition root of training: what ``train_ranking`` reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from include import bootstrap
from include.pipeline.train import TrainPorts
from include.settings import Settings


@contextmanager
def open_train_ports(settings: Settings) -> Iterator[TrainPorts]:
    """Connects on first use."""
    with (
        closing(bootstrap.open_pipeline_warehouse(settings)) as warehouse,
        closing(bootstrap.open_similar_items(settings)) as similar_items,
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
