"""Make the topic of events and that of dead letters, where they are absent: ``python scripts/make_topics.py``.

It reads MILLRACE_KAFKA_BOOTSTRAP and MILLRACE_SHARDS like everything else; see include/settings.py. Doing it again
changes nothing; a topic with another number of partitions is refused.
"""

from __future__ import annotations

import os
import sys

from include.errors import MillraceError
from include.settings import Settings
from include.sources.kafka_topics import ensure_topics


def main() -> int:
    """0 when both topics are there."""
    try:
        settings = Settings.from_environment(os.environ)
        ensure_topics(settings.kafka, settings.pipeline.shards)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
