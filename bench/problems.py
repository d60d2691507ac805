"""The arrays of a cell: logits of two kinds, and targets to go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.cells import Cell

Kind = Literal["normal", "confident"]
Reduction = Literal["mean", "none"]


@dataclass(frozen=True)
class Problem:
    """What a subject is given: the arrays, how to reduce, and how many threads it may use."""

    cell: Cell
    logits: np.ndarray[Any, Any]
    target: np.ndarray[Any, Any]
    reduction: Reduction
    threads: int


def floating_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of that name, or the one of ml_dtypes for ``bfloat16``."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def working_dtype(name: str) -> np.dtype[Any]:
    """The dtype in which logits of this dtype are computed, and their single losses returned."""
    return np.dtype(np.float64 if name == "float64" else np.float32)


def make_problem(
    cell: Cell, threads: int, reduction: Reduction = "mean", kind: Kind = "normal", seed: int = 0
) -> Problem:
    """Random arrays for ``cell``.

    ``normal``: logits from a normal distribution of standard deviation 3, targets at random.
    ``confident``: the right answer leads every other by 10 to 60, as in a trained classifier.
    """
    rng = np.random.default_rng(seed)
    working, given = working_dtype(cell.dtype), floating_dtype(cell.dtype)
    logits = rng.standard_normal(cell.shape, dtype=working)
    logits *= 3 if kind == "normal" else 1
    if cell.target == "binary":
        target = rng.integers(0, 2, cell.shape).astype(working)
        if kind == "confident":
            logits = (2 * target - 1) * rng.uniform(10, 60, cell.shape).astype(working)
    else:
        label_shape = tuple(np.delete(cell.shape, cell.axis))
        target = rng.integers(0, cell.classes, label_shape)
        if kind == "confident":
            lead = logits.max(axis=cell.axis) + rng.uniform(10, 60, label_shape)
            chosen, lead = (np.expand_dims(array, cell.axis) for array in (target, lead))
            np.put_along_axis(logits, chosen, lead.astype(working), cell.axis)
    if cell.target == "probabilities":
        target = rng.standard_exponential(cell.shape, dtype=working)
        target /= target.sum(axis=cell.axis, keepdims=True)
    if cell.target == "logits":  # of a teacher close to the student
        target = logits + rng.standard_normal(cell.shape, dtype=working)
        target = target.astype(given, copy=False)
    return Problem(cell, logits.astype(given, copy=False), target, reduction, threads)
