"""The reader's settings, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from include.settings_parser import SettingsParser


@dataclass(frozen=True)
class ReaderSettings:
    """The Redis to read from, the address to listen on, and the number of worker processes."""

    redis_url: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 18000
    workers: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ReaderSettings:
        """Read ``MILLRACE_REDIS_URL`` and the optional ``MILLRACE_READER_HOST``, ``_PORT`` and ``_WORKERS``."""
        parser = SettingsParser.from_environment(environment)
        return cls(
            redis_url=parser.text("REDIS_URL", hint="It looks like redis://:password@host:port/0"),
            host=parser.text("READER_HOST", cls.host),
            port=parser.integer("READER_PORT", cls.port, 1, 65_535),
            workers=parser.integer("READER_WORKERS", cls.workers, 1, 256),
        )
