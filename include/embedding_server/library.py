"""The engine on sentence-transformers: for GPUs, and for every architecture that the library supports."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 # this engine is loaded only when it is needed
from sentence_transformers import SentenceTransformer  # noqa: TID253 # this is its leaf file

from include.embedding_server.engine import Tokens


class LibraryEngine:
    """The Engine port on ``SentenceTransformer``. One worker: a single call uses every thread, or the GPU."""

    workers = 1

    def __init__(self, path: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = SentenceTransformer(str(path), local_files_only=True)
        self._model.eval()
        self._tokenizer_lock = threading.Lock()
        self.dimension: int = self._model.get_embedding_dimension() or 0
        self.batch_tokens = 512 if self._model.device.type == "cpu" else 32_768

    @property
    def description(self) -> str:
        return f"sentence-transformers on {self._model.device}, {torch.get_num_threads()} threads"

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        with self._tokenizer_lock:
            encodings = self._model.tokenizer(list(texts), truncation=True, max_length=self._model.max_seq_length)
        ids: list[Tokens] = encodings["input_ids"]
        return ids

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        with self._tokenizer_lock:
            inputs = self._model.tokenizer.pad({"input_ids": [list(ids) for ids in batch]}, return_tensors="pt")
        with torch.inference_mode():
            features = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
            vectors = self._model(features)["sentence_embedding"].float()
            unit: np.ndarray = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        return unit
