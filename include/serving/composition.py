"""The reader's composition root: builds one application per worker from the settings."""

from __future__ import annotations

import gc
import logging
import os

from include.serving.address import RedisAddress
from include.serving.app import Reader
from include.serving.cache import ListCache
from include.serving.metrics import Metrics
from include.serving.recent_readers import RecentReaders
from include.serving.settings import ReaderSettings
from include.serving.store import Store


def create_app() -> Reader:
    """Create a worker's application from the environment. Granian calls this in each worker."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    reader = build_reader(ReaderSettings.from_environment(os.environ))
    # Everything loaded so far lives as long as the worker: exclude it from garbage collection.
    gc.collect()
    gc.freeze()
    return reader


def build_reader(settings: ReaderSettings) -> Reader:
    """Build the application. Raises ``ConfigurationError``."""
    metrics, cache = Metrics(), ListCache()
    recent_readers = RecentReaders(metrics)
    store = Store(RedisAddress.from_url(settings.redis_url), cache, recent_readers, metrics)
    return Reader(store, cache, recent_readers, metrics)
