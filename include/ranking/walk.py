"""Graph walk: from a user's item to the users who have it, and on to their items (RP3beta, Paudel et al. 2016)."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from include.ranking.arrays import invert, with_ones

#: Rows of the item x item product that are in memory at a time.
_ROWS = 1_024


def fit_walk(matrix: sparse.csr_array, beta: float, limit: int) -> sparse.csr_array:
    """items x items, float32: the probability of reaching item j from item i in two steps, over degree(j) ** beta.

    ``matrix``: users x items. Keeps the ``limit`` best targets of each item. Scores are ``histories @ walk``.
    """
    engaged = with_ones(matrix)
    by_user, by_item = (np.asarray(engaged.sum(axis=axis)).ravel() for axis in (1, 0))
    to_users = sparse.csr_array(sparse.diags_array(invert(by_item)) @ engaged.T)
    to_items = sparse.csr_array(sparse.diags_array(invert(by_user)) @ engaged) * invert(by_item**beta)
    to_items = sparse.csr_array(to_items)
    blocks = [
        keep_best(sparse.csr_array(to_users[start : start + _ROWS] @ to_items), limit, start)
        for start in range(0, engaged.shape[1], _ROWS)
    ]
    return sparse.csr_array(sparse.vstack(blocks, format="csr", dtype=np.float32))


def keep_best(block: sparse.csr_array, limit: int, first: int) -> sparse.csr_array:
    """The ``limit`` greatest values of each row, without the diagonal of the whole matrix, whose row ``first`` is the
    first one here.
    """
    rows, columns, values = [], [], []
    for row in range(block.shape[0]):
        start, end = block.indptr[row], block.indptr[row + 1]
        targets, scores = block.indices[start:end], block.data[start:end]
        keep = targets != first + row
        targets, scores = targets[keep], scores[keep]
        best = np.lexsort((targets, -scores))[:limit]
        rows.append(np.full(len(best), row))
        columns.append(targets[best])
        values.append(scores[best])
    index = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_array((np.concatenate(values), index), shape=block.shape)
