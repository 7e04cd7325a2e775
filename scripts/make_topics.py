"""Create the events topic and the dead-letter topic if they do not exist: ``python scripts/make_topics.py``.

It reads MILLRACE_KAFKA_BOOTSTRAP and MILLRACE_SHARDS; see include/settings.py. It is safe to run again. A topic with
another number of partitions is an error.
"""

from __future__ import annotations

import os
import sys

from include.errors import MillraceError
from include.settings import EnvironmentSettings
from include.sources.kafka_topics import ensure_topics


def main() -> int:
    """0 if both topics exist."""
    try:
        settings = EnvironmentSettings(os.environ)
        ensure_topics(settings.kafka, settings.pipeline.shards)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
