"""The engine: what turns texts into vectors. ``load.py`` chooses one for the model and the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

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
