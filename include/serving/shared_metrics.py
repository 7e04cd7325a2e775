"""The directory through which several workers share their metrics. Imports nothing of prometheus_client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

#: prometheus_client reads this variable when it is first imported, and shares values through files if it is set.
DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def share_metrics(workers: int) -> Iterator[None]:
    """Let workers that start inside this context share their metrics. A single worker needs no directory.

    Runs in the main process, before any worker imports prometheus_client.
    """
    # An inherited directory, under its current or its former name, would mix in another program's metrics.
    for name in (DIRECTORY_VARIABLE, DIRECTORY_VARIABLE.lower()):
        os.environ.pop(name, None)
    if workers == 1:
        yield
        return
    with TemporaryDirectory(prefix="millrace-reader-") as directory:  # only this user can access it
        os.environ[DIRECTORY_VARIABLE] = directory
        try:
            yield
        finally:
            del os.environ[DIRECTORY_VARIABLE]
