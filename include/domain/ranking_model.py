"""A trained ranking as the warehouse knows it."""

from __future__ import annotations

from dataclasses import dataclass

from include.domain.identity import digest
from include.errors import ConfigurationError


@dataclass(frozen=True)
class RankingModel:
    """One trained ranking. Times are in ms since 1970.

    ``as_of``: the time that recency counted from. ``ndcg`` and ``short_ndcg``: NDCG@10 on the inner split, of whole
    histories and of the same users with one to four items. ``settings``: JSON; ``card``: what was tried, for people.
    ``promoted_at`` is None for a model that was never in service; the one promoted last is in service.
    """

    version: str
    trained_at: int
    as_of: int
    users: int
    items: int
    events: int
    ndcg: float
    short_ndcg: float
    settings: str
    card: str
    promoted_at: int | None = None


def model_version(settings: str, newest: int, events: int) -> str:
    """From the settings, the time of the newest event and the number of events: training twice stores one model."""
    return digest(f"{newest}:{events}:{settings}".encode())[:12]


def unknown_version(version: str) -> ConfigurationError:
    """The error for a version that is not stored."""
    return ConfigurationError(f"no ranking {version!r} is stored; `python -m include.cli ranking list` shows them")
