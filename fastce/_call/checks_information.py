"""Errors about the probabilities that `information` takes."""

import numpy as np
import numpy.typing as npt

from fastce._call import checks
from fastce._call.layout import Array


def together(**arrays: Array) -> list[Array]:
    """Return arrays in float64, broadcast together."""
    try:
        return list(np.broadcast_arrays(*(array.astype(np.float64) for array in arrays.values())))
    except ValueError:
        given = " and ".join(f"{name} of shape {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{given} do not broadcast together") from None


def distribution(name: str, values: Array, axis: int, tolerance: float) -> None:
    """Check that ``values``, in float64, are a distribution along ``axis``."""
    if values.shape[axis] == 0:
        raise ValueError(f"{name} of shape {values.shape} has no outcomes along axis {axis}")
    checks.largest_weight(name, values, "a probability distribution")
    total = values.sum(axis=axis, keepdims=True)
    wrong = abs(total - 1) > tolerance  # also if the sum overflows
    if wrong.any():
        at = checks.first_true(wrong)
        along = ", ".join(map(str, (*at[:axis], ":", *at[axis + 1 :])))
        raise ValueError(
            f"{name} must be a probability distribution, but {name}[{along}] sums to {total[at]},"
            f" which differs from 1 by more than {tolerance}"
        )


def labels(value: npt.ArrayLike, shape: tuple[int, ...], classes: int) -> Array:
    """Return labels in [0, classes), with the shape of the log-probabilities without the axis."""
    array = checks.as_array("target", value)
    if array.size == 0 and isinstance(value, list | tuple):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.dtype.kind not in "iu":
        raise TypeError(f"target must be integer class labels, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(
            f"target must have shape {shape}, that of log_probs without axis, got {array.shape}"
        )
    checks.labels_in_range(array, classes)
    return array
