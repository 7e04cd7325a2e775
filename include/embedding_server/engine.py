"""The engine turns texts into vectors. ``load.py`` chooses one for the model and the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

#: A text as the model reads it: token ids, truncated to the model's maximum length.
type Tokens = Sequence[int]


class Engine(Protocol):
    """A loaded model. Several threads may call both methods at once."""

    @property
    def description(self) -> str:
        """The implementation, the device and the precision, for the log."""

    @property
    def dimension(self) -> int: ...
    @property
    def workers(self) -> int:
        """The number of threads that should call ``embed`` in parallel."""

    @property
    def batch_tokens(self) -> int:
        """About the best number of tokens for one call of ``embed``."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]: ...
    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """float32 (len(batch), dimension), rows of length one. Fastest if the batch is sorted by length."""
