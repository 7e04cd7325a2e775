"""The composition root of the reader: settings into one application a worker."""

from __future__ import annotations

import gc
import logging
import os

from include.serving.address import Address
from include.serving.app import Reader
from include.serving.asked import Asked
from include.serving.memory import Memory
from include.serving.metrics import Metrics
from include.serving.settings import ReaderSettings
from include.serving.store import Store


def application() -> Reader:
    """The application of one worker, by the environment; granian calls this in the worker."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    reader = assembled(ReaderSettings.from_environment(os.environ))
    # What is loaded by now stays: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    return reader


def assembled(settings: ReaderSettings) -> Reader:
    """The application on its parts. Raises ``ConfigurationError``."""
    metrics, memory = Metrics(), Memory()
    asked = Asked(metrics)
    store = Store(Address.from_url(settings.redis_url), memory, asked, metrics)
    return Reader(store, memory, asked, metrics)
