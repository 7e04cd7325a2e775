"""Made-up engagement for tests: users with a taste, who take to items of their own group."""

from __future__ import annotations

import numpy as np

from include.ranking.interactions import DAY_MS, Interactions

GROUPS = 4


def make_events(
    users: int = 120, items: int = 40, per_user: int = 12, days: int = 100, seed: int = 0, fidelity: float = 0.9
) -> Interactions:
    """Purchases. User u mostly takes items i with i % GROUPS == u % GROUPS."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), per_user)
    own = random.random(len(user)) < fidelity
    item = random.integers(0, items // GROUPS, len(user)) * GROUPS + np.where(
        own, user % GROUPS, random.integers(0, GROUPS, len(user))
    )
    at = random.integers(0, days * DAY_MS, len(user))
    return Interactions(users, items, user.astype(np.int32), item.astype(np.int32), at, np.ones(len(user)))
