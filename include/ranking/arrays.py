"""Small operations on arrays that several sources need."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def with_ones(matrix: sparse.csr_array) -> sparse.csr_array:
    """A copy in which every stored value is 1."""
    ones = matrix.copy()
    ones.data = np.ones_like(ones.data)
    return ones


def invert(values: np.ndarray) -> np.ndarray:
    """1 / value (float64), 0 for a value that is not positive."""
    inverse: np.ndarray = np.divide(1, values, out=np.zeros_like(values, dtype=np.float64), where=values > 0)
    return inverse
