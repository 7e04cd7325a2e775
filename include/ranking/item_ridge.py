"""Item ridge: for each item, weights of its nearest items that predict who engages with it.

A sparse EASE (Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data"): with G = W'W, column b of item j
solves (G_CC + lam * unit * I) b = G_Cj over its K nearest items C by cosine, without j itself. unit = sum(g^2) / sum(g)
with g = diag(G) makes lam independent of scale and density. Needs n * K numbers, never items x items.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from include.ranking.arrays import invert

#: Items that are solved together: one (_BATCH, K, K) array at a time.
_BATCH = 128
#: Items whose co-engagements are in memory at the same time, as dense rows.
_ROWS = 512


def fit_item_ridge(matrix: sparse.csr_array, neighbours: int, strength: float) -> sparse.csr_array:
    """items x items, float32: column j has the weights of the ``neighbours`` nearest items of item j.

    ``matrix``: users x items. ``strength``: lam. Scores of users are ``histories @ weights``.
    """
    gram = sparse.csr_array(matrix.T @ matrix)
    diagonal = gram.diagonal()
    if not diagonal.any():
        return sparse.csr_array(gram.shape, dtype=np.float32)
    penalty = strength * (diagonal**2).sum() / diagonal.sum()
    nearest = find_nearest(gram, diagonal, neighbours)
    rows, columns, values = [], [], []
    for start in range(0, len(nearest), _BATCH):
        chosen = nearest[start : start + _BATCH]
        weights = _solve(gram, chosen, np.arange(start, start + len(chosen)), penalty)
        known = chosen >= 0
        rows.append(chosen[known])
        columns.append(np.repeat(np.arange(start, start + len(chosen)), known.sum(axis=1)))
        values.append(weights[known])
    index = np.concatenate(rows), np.concatenate(columns)
    weights = sparse.csr_array((np.concatenate(values).astype(np.float32), index), shape=gram.shape)
    weights.eliminate_zeros()
    return weights


def find_nearest(gram: sparse.csr_array, diagonal: np.ndarray, limit: int) -> np.ndarray:
    """(items, limit) int64: the nearest other items by cosine, nearest first, ties by number; -1 where there are fewer.

    ``gram`` is symmetric with ``diagonal``; only items with which an item has something in common are near it.
    """
    items = gram.shape[0]
    limit = min(limit, max(1, items - 1))
    nearest = np.full((items, limit), -1, dtype=np.int64)
    scale = invert(np.sqrt(diagonal))
    for row in range(items):
        start, end = gram.indptr[row], gram.indptr[row + 1]
        others = gram.indices[start:end]
        cosine = gram.data[start:end] * scale[others]
        keep = (others != row) & (cosine > 0)
        others, cosine = others[keep], cosine[keep]
        if len(others) > limit:
            # More than needed, because ties at the end must not depend on the algorithm.
            least = np.partition(cosine, len(cosine) - limit)[len(cosine) - limit]
            others, cosine = others[cosine >= least], cosine[cosine >= least]
        best = np.lexsort((others, -cosine))[:limit]
        nearest[row, : len(best)] = others[best]
    return nearest


def _solve(gram: sparse.csr_array, chosen: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """(targets, K): the weights of each target's chosen items; zero where there is none."""
    union, position = np.unique(chosen, return_inverse=True)
    position = position.reshape(chosen.shape)
    if len(union) and union[0] < 0:
        known = union[1:]
        block = np.zeros((len(union), len(union)))
        block[1:, 1:] = gram[known][:, known].toarray()
        right = np.zeros((len(targets), len(union)))
        right[:, 1:] = gram[targets][:, known].toarray()
    else:
        block = gram[union][:, union].toarray()
        right = gram[targets][:, union].toarray()
    size = chosen.shape[1]
    systems = block[position[:, :, None], position[:, None, :]]
    systems[:, np.arange(size), np.arange(size)] += penalty
    sides = np.take_along_axis(right, position, axis=1)
    solved: np.ndarray = np.linalg.solve(systems, sides[:, :, None])[:, :, 0]
    return solved
