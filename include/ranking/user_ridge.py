"""User ridge: for each user, weights of the nearest users that explain the user's own items.

Over the N nearest users v by idf cosine, idf(i) = ln(1 + users / degree(i)): solve (A + lam * I) w = b with
A = |I(v) & I(v')|, b = |I(v) & I(u)|, I = the items of a user. score(u, j) = sum of w_v * decayed(v, j).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from include.ranking.arrays import invert, with_ones

#: Users that are solved together, and the numbers of one vector of users x items at most.
_BATCH = 64
_BATCH_ITEMS = 1_000_000
#: Conjugate gradients end when the residual is this small beside the right side, or after so many steps.
_TOLERANCE = 1e-3
_MAX_STEPS = 100


@dataclass(frozen=True)
class UserRidge:
    """``engaged``: users x items, ones. ``scaled_by_item``: its transpose times idf, columns of length one."""

    engaged: sparse.csr_array
    idf: np.ndarray
    scaled_by_item: sparse.csr_array
    neighbours: int
    strength: float

    @classmethod
    def build(cls, matrix: sparse.csr_array, neighbours: int, strength: float) -> UserRidge:
        """From users x items; ``strength`` is lam."""
        engaged = with_ones(matrix)
        degree = np.asarray(engaged.sum(axis=0)).ravel()
        idf = np.log1p(np.divide(matrix.shape[0], degree, out=np.zeros_like(degree), where=degree > 0))
        scaled = sparse.csr_array(engaged * idf)
        lengths = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
        scaled = sparse.csr_array(sparse.diags_array(invert(lengths)) @ scaled)
        return cls(engaged, idf, sparse.csr_array(scaled.T), neighbours, strength)

    def resize(self, items: int) -> UserRidge:
        """The same with more items, which no user has."""
        engaged, by_item = self.engaged.copy(), self.scaled_by_item.copy()
        engaged.resize((engaged.shape[0], items))
        by_item.resize((items, by_item.shape[1]))
        idf = np.concatenate([self.idf, np.zeros(items - len(self.idf))])
        return replace(self, engaged=engaged, idf=idf, scaled_by_item=by_item)

    def weigh(self, seen: sparse.csr_array, users: np.ndarray) -> sparse.csr_array:
        """len(users) x users: the weights of each user's nearest users. The product with a decayed users x items
        matrix scores every item.

        ``seen``: the users' own items, one row each. ``users``: their rows in the matrix, -1 for a user without one.
        """
        size = max(1, min(_BATCH, _BATCH_ITEMS // max(1, seen.shape[1])))
        blocks = [
            self._weigh_batch(seen[start : start + size], users[start : start + size])
            for start in range(0, len(users), size)
        ]
        if not blocks:
            return sparse.csr_array((0, self.engaged.shape[0]))
        return sparse.csr_array(sparse.vstack(blocks, format="csr"))

    def _weigh_batch(self, seen: sparse.csr_array, users: np.ndarray) -> sparse.csr_array:
        near = self._find_nearest(seen, users)
        counts = np.array([len(others) for others in near])
        others = np.concatenate(near)
        weights = self._solve(others, np.repeat(np.arange(len(users)), counts), seen)
        start = np.concatenate([[0], np.cumsum(counts)])
        return sparse.csr_array((weights, others, start), shape=(len(users), self.engaged.shape[0]))

    def _find_nearest(self, seen: sparse.csr_array, users: np.ndarray) -> list[np.ndarray]:
        similar = sparse.csr_array(sparse.csr_array(seen * self.idf) @ self.scaled_by_item)
        nearest = []
        for row, user in enumerate(users):
            start, end = similar.indptr[row], similar.indptr[row + 1]
            others, values = similar.indices[start:end], similar.data[start:end]
            keep = (others != user) & (values > 0)
            others, values = others[keep], values[keep]
            if len(others) > self.neighbours:
                least = np.partition(values, len(values) - self.neighbours)[len(values) - self.neighbours]
                others, values = others[values >= least], values[values >= least]
            nearest.append(others[np.lexsort((others, -values))[: self.neighbours]])
        return nearest

    def _solve(self, others: np.ndarray, owner: np.ndarray, seen: sparse.csr_array) -> np.ndarray:
        """The weights of ``others``, each a neighbour of the user ``owner``, by conjugate gradients: A w is two sparse
        products, so A itself, N x N for each user, is never computed.
        """
        items = self.engaged[others]
        columns = items.indices + np.repeat(owner.astype(np.int64) * seen.shape[1], np.diff(items.indptr))
        blocks = sparse.csr_array(
            (items.data, columns, items.indptr), shape=(len(others), seen.shape[0] * seen.shape[1])
        )
        transposed = blocks.T
        own = np.zeros(blocks.shape[1])
        own[np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)) * seen.shape[1] + seen.indices] = 1

        def sum_by_user(values: np.ndarray) -> np.ndarray:
            return np.bincount(owner, weights=values, minlength=seen.shape[0])

        weights = np.zeros(len(others))
        residual = blocks @ own
        direction = residual.copy()
        norm = sum_by_user(residual**2)
        target = norm * _TOLERANCE**2
        for _ in range(_MAX_STEPS):
            if (norm <= target).all():
                break
            product = blocks @ (transposed @ direction) + self.strength * direction
            step = _divide(norm, sum_by_user(direction * product))[owner]
            weights += step * direction
            residual -= step * product
            previous, norm = norm, sum_by_user(residual**2)
            direction = residual + _divide(norm, previous)[owner] * direction
        return weights


def _divide(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    quotients: np.ndarray = np.divide(values, by, out=np.zeros_like(values), where=by > 0)
    return quotients
