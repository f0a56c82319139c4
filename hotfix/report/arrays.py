"""Values and group labels of examples as arrays."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Floats", "group_codes", "group_sums", "vectors"]

Floats: TypeAlias = NDArray[np.float64]


def vectors(*values: ArrayLike) -> list[Floats]:
    """Return each as float64 [E]; they must be of one length."""
    found = [np.asarray(value, dtype=np.float64) for value in values]
    shapes = [vector.shape for vector in found]
    if found[0].ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"need one value per example, in vectors of one length; got shapes {shapes}")
    return found


def group_codes(groups: Iterable[Hashable] | None, length: int) -> NDArray[np.intp]:
    """Labels of any hashable kind as whole numbers."""
    if groups is None:
        return np.arange(length)
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(group, len(numbers)) for group in groups]
    if len(codes) != length:
        raise ValueError(f"need one group per example; got {len(codes)} groups for {length} examples")
    return np.asarray(codes, dtype=np.intp)


def group_sums(values: Floats, codes: NDArray[np.intp]) -> Floats:
    """Return the sum of each group's values, [groups]."""
    _, dense = np.unique(codes, return_inverse=True)
    return np.asarray(np.bincount(dense, weights=values), dtype=np.float64)
