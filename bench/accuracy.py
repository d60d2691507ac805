"""Worst relative error of what a subject returns against extended precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.problems import Problem, floating_dtype
from bench.truth import Answer

Array = np.ndarray[Any, Any]


def as_longdouble(result: Any) -> Array:
    """Any subject's array or number, exactly (torch tensors and 16-bit types by way of float64)."""
    if hasattr(result, "detach"):
        result = result.detach().double().numpy()
    values = np.asarray(result)
    if values.dtype.itemsize < 8:
        values = values.astype(np.float64)
    return values.astype(np.longdouble)


def worst_relative_error(result: Any, truth: Array, magnitude: Array, tiny: float) -> float | None:
    """max |result − truth| / magnitude where the truth is a normal number of the result's dtype.

    A NaN or a missing digit counts as what it is: NaN gives inf. None if there is nothing to
    compare.
    """
    result = as_longdouble(result).reshape(truth.shape)
    normal = np.abs(truth) >= tiny
    if not normal.any():
        return None
    error = np.abs(result - truth)[normal] / magnitude[normal]
    return float(np.where(np.isnan(error), np.inf, error).max())


def errors(result: Any, problem: Problem, truth: Answer) -> dict[str, float | None]:
    """Worst relative error of ``value`` and ``gradient`` in what a run returned."""
    cell = problem.cell
    dtype = floating_dtype(cell.dtype)
    working = np.finfo(np.float64 if cell.dtype == "float64" else np.float32)
    if truth.gradient is not None and not cell.gradient:
        value, gradient = result, None
    elif truth.gradient is not None:
        value, gradient = result
    else:
        value, gradient = result[0] if isinstance(result, tuple) else result, None
    found = {
        "value": worst_relative_error(
            value, truth.value, np.abs(truth.value), float(working.smallest_normal)
        )
    }
    if gradient is not None and truth.gradient is not None:
        assert truth.gradient_magnitude is not None
        tiny = _smallest_normal(dtype)
        found["gradient"] = worst_relative_error(
            gradient, truth.gradient, truth.gradient_magnitude, tiny
        )
    return found


def _smallest_normal(dtype: np.dtype[Any]) -> float:
    if dtype.name == "bfloat16":  # np.finfo does not know it; its exponent is float32's
        return float(np.finfo(np.float32).smallest_normal)
    return float(np.finfo(dtype).smallest_normal)
