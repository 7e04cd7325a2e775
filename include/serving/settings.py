"""The reader's settings, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from include.errors import ConfigurationError


@dataclass(frozen=True)
class ReaderSettings:
    """Where the reader listens and which Redis it reads."""

    redis_url: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 18000
    workers: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ReaderSettings:
        """From ``MILLRACE_REDIS_URL`` and, if set, ``MILLRACE_READER_HOST``, ``_PORT`` and ``_WORKERS``."""
        url = environment.get("MILLRACE_REDIS_URL", "")
        if not url:
            raise ConfigurationError("MILLRACE_REDIS_URL is not set; it looks like redis://:password@host:port/0")
        return cls(
            redis_url=url,
            host=environment.get("MILLRACE_READER_HOST", "") or cls.host,
            port=_number(environment, "MILLRACE_READER_PORT", cls.port, 65_535),
            workers=_number(environment, "MILLRACE_READER_WORKERS", cls.workers, 256),
        )


def _number(environment: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = environment.get(name, "") or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise ConfigurationError(f"{name} is {text!r}; it must be a whole number from 1 to {most}")
    return int(text)
