"""Checks of the softmax functions' arguments, and of the softmax losses' targets."""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce._call import checks
from fastce._call.layout import Array
from fastce._call.messages import shown

Axis = int | tuple[int, ...] | None


def logits(value: npt.ArrayLike) -> Array:
    """Return logits in a type that the kernels take: integers and bools as float64."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            "logits is a masked array, which is not supported: pass its data and where=~mask"
        )
    array = checks.real("logits", value)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    if array.dtype.itemsize > 8:  # long double
        raise TypeError(
            f"logits must be {checks.ACCEPTED_LOGITS}, or integer or bool, got {array.dtype}"
        )
    return array


def class_axes(logits: Array, axis: Any) -> tuple[int, ...]:
    """Return the class axes, counted from 0: all for None, and none for a scalar."""
    if axis is None:
        return tuple(range(logits.ndim))
    try:
        indices = tuple(map(operator.index, axis if isinstance(axis, tuple) else (axis,)))
    except TypeError:
        raise TypeError(
            f"axis must be an integer, a tuple of integers or None, got {shown(axis)}"
        ) from None
    if logits.ndim == 0 and indices in ((-1,), (0,)):
        return ()  # a scalar counts as a row of one class
    axes = tuple([checks.class_axis(logits, index) for index in indices])
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis must name each axis once, got {shown(axis)} for {logits.ndim} axes")
    return axes


def keepdims(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"keepdims must be True or False, got {shown(value)}")
    return bool(value)


def target_of_rows(
    loss: Any, value: npt.ArrayLike, logits: Array, axis: int, *, only_labels: bool = False
) -> tuple[Array, bool]:
    """Return the target that a softmax loss takes, and whether it holds labels.

    With ``only_labels``, probabilities are an error even if the loss takes them.
    """
    if loss.takes_logits:
        return teacher_logits(value, logits), False
    probabilities = loss.takes_probabilities and not only_labels
    return checks.softmax_target(value, logits, axis, probabilities=probabilities)


def teacher_logits(value: npt.ArrayLike, logits: Array) -> Array:
    array = checks.as_array("target", value)
    if not checks.is_logits(array):
        raise TypeError(
            f"target must be a teacher's logits of {checks.ACCEPTED_LOGITS}, got {array.dtype} of"
            f" shape {array.shape}"
        )
    if array.shape != logits.shape:
        checks.unfit_target(array, logits, ": a teacher's logits must have their shape")
    return array
