"""The generation: an embedding model, its revision and its dimension. Every vector belongs to one."""

from __future__ import annotations

import re

import msgspec


class Generation(msgspec.Struct, frozen=True):
    """Vectors of different generations must never be compared."""

    model: str
    revision: str
    dimension: int

    @property
    def name(self) -> str:
        """A short name of letters, digits and underscores, used in collection names and Redis keys."""
        plain = re.sub(r"[^a-z0-9]+", "_", f"{self.model}_{self.revision}".lower()).strip("_")
        return f"{plain}_{self.dimension}"
