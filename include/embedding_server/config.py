"""The embedding server's settings, from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from include.errors import ConfigurationError

#: ``unpadded`` is our own forward pass for BERT models on a CPU, ``library`` is sentence-transformers.
type EngineChoice = Literal["auto", "unpadded", "library"]
type PrecisionChoice = Literal["auto", "float32", "bfloat16"]

PREFIX = "MILLRACE_EMBED_"


@dataclass(frozen=True)
class ServerConfig:
    """``model_path`` None is the packaged all-MiniLM-L6-v2; ``model`` is the name that requests must ask for."""

    host: str = "127.0.0.1"
    port: int = 18090
    api_key: str = field(default="", repr=False)
    threads: int = 2
    model: str = "all-MiniLM-L6-v2"
    model_path: Path | None = None
    engine: EngineChoice = "auto"
    precision: PrecisionChoice = "auto"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServerConfig:
        """Raises ``ConfigurationError`` naming the first variable that is wrong."""
        values = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
        path = values.get("MODEL_PATH")
        engine, precision = values.get("ENGINE", cls.engine), values.get("PRECISION", cls.precision)
        _one_of("ENGINE", engine, get_args(EngineChoice.__value__))
        _one_of("PRECISION", precision, get_args(PrecisionChoice.__value__))
        return cls(
            host=values.get("SERVER_HOST", cls.host),
            port=_integer(values, "SERVER_PORT", cls.port, 1, 65_535),
            api_key=values.get("API_KEY", ""),
            threads=_integer(values, "THREADS", min(cls.threads, os.cpu_count() or 1), 1, 256),
            model=values.get("SERVER_MODEL", cls.model),
            model_path=Path(path) if path else None,
            engine=engine,  # type: ignore[arg-type] # checked above
            precision=precision,  # type: ignore[arg-type]
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{PREFIX}{name} is {value!r}; it must be one of {', '.join(allowed)}")


def _integer(values: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = values.get(name, str(default))
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ConfigurationError(f"{PREFIX}{name} is {text!r}; it must be a whole number from {least} to {most}")
    return int(text)
