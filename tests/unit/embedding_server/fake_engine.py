"""A model for tests: the first number of a vector is the length of the text."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from include.embedding_server.engine import Tokens


class FakeEngine:
    """Tokens are code points. Fails on texts that contain ``failing``; blocks while ``unblocked`` is not set."""

    description = "fake"
    dimension = 4
    batch_tokens = 100

    def __init__(self, workers: int = 1, failing: str = "\0") -> None:
        self.workers = workers
        self.batches: list[list[int]] = []
        self.unblocked = threading.Event()
        self.unblocked.set()
        self._failing = ord(failing)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [[ord(character) for character in text] for text in texts]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        self.unblocked.wait(10)
        self.batches.append([len(tokens) for tokens in batch])
        if any(self._failing in tokens for tokens in batch):
            texts = ["".join(map(chr, tokens)) for tokens in batch]
            raise RuntimeError(f"the model failed on {texts}")
        return np.array([[len(tokens), sum(tokens), 0, 1] for tokens in batch], dtype=np.float32)
