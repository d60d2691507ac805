"""Errors about arguments of softmax, log_softmax and logsumexp, which take more than the losses."""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import _checks

Array = npt.NDArray[Any]
Axis = int | tuple[int, ...] | None


def logits(value: npt.ArrayLike) -> Array:
    """Return logits as the kernels take them: integers and bools in float64."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            "logits is a masked array, which is not supported: pass its data and where=~mask"
        )
    array = _checks.real("logits", value)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    if array.dtype.itemsize > 8:  # long double
        raise TypeError(
            f"logits must be {_checks.ACCEPTED_LOGITS}, or integer or bool, got {array.dtype}"
        )
    return array


def class_axis(logits: Array, axis: Any) -> int:
    """Return the one class axis, counted from 0."""
    if logits.ndim == 0:
        raise ValueError("logits must have a class axis, got a scalar")
    try:
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    return _in_range(index, logits)


def class_axes(logits: Array, axis: Any) -> tuple[int, ...]:
    """Return the class axes, counted from 0: all for None, and none for a scalar."""
    if axis is None:
        return tuple(range(logits.ndim))
    if type(axis) is int and -logits.ndim <= axis < logits.ndim:
        return (axis % logits.ndim,)
    try:
        indices = tuple(map(operator.index, axis if isinstance(axis, tuple) else (axis,)))
    except TypeError:
        raise TypeError(
            f"axis must be an integer, a tuple of integers or None, got {axis!r}"
        ) from None
    if logits.ndim == 0 and not isinstance(axis, tuple) and indices[0] in (-1, 0):
        return ()  # a reduction of NumPy takes the axis of a scalar as well
    axes = tuple(_in_range(index, logits) for index in indices)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis must name each axis once, got {axis!r} for {logits.ndim} axes")
    return axes


def keepdims(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"keepdims must be True or False, got {value!r}")
    return bool(value)


def _in_range(axis: int, logits: Array) -> int:
    if -logits.ndim <= axis < logits.ndim:
        return axis % logits.ndim
    accepted = f"in [{-logits.ndim}, {logits.ndim - 1}]" if logits.ndim else "-1 or 0"
    raise np.exceptions.AxisError(
        f"axis must be {accepted} for logits of shape {logits.shape}, got {axis}"
    )
