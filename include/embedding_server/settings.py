"""The embedding server's settings, from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from include.settings_parser import SettingsParser

#: ``unpadded`` is Millrace's own forward pass for BERT models on a CPU, ``library`` is sentence-transformers.
type EngineChoice = Literal["auto", "unpadded", "library"]
type PrecisionChoice = Literal["auto", "float32", "bfloat16"]

ENGINES: tuple[EngineChoice, ...] = ("auto", "unpadded", "library")
PRECISIONS: tuple[PrecisionChoice, ...] = ("auto", "float32", "bfloat16")

PREFIX = "MILLRACE_EMBED_"


@dataclass(frozen=True)
class ServerSettings:
    """``model`` is the name that requests must use. The default ``model_path`` is the packaged all-MiniLM-L6-v2."""

    host: str = "127.0.0.1"
    port: int = 18090
    api_key: str = field(default="", repr=False)
    threads: int = 2
    model: str = "all-MiniLM-L6-v2"
    model_path: Path | None = None
    engine: EngineChoice = "auto"
    precision: PrecisionChoice = "auto"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServerSettings:
        """Raises ``ConfigurationError`` naming the first invalid variable."""
        parser = SettingsParser.from_environment(environment, PREFIX)
        return cls(
            host=parser.text("SERVER_HOST", cls.host),
            port=parser.integer("SERVER_PORT", cls.port, 1, 65_535),
            api_key=parser.text("API_KEY", cls.api_key),
            threads=parser.integer("THREADS", min(cls.threads, os.cpu_count() or 1), 1, 256),
            model=parser.text("SERVER_MODEL", cls.model),
            model_path=parser.path("MODEL_PATH", Path()) if parser.has("MODEL_PATH") else None,
            engine=parser.choice("ENGINE", cls.engine, ENGINES),
            precision=parser.choice("PRECISION", cls.precision, PRECISIONS),
        )
