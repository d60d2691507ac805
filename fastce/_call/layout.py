"""Views of arrays with another order of axes, and new arrays with the same layout."""

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def once(array: Array) -> Array:
    """Return a view without the repetitions of broadcast axes, or the array if there are none."""
    if 0 not in array.strides:
        return array
    return array[(*(slice(None if stride else 1) for stride in array.strides), ...)]


def memory_order(arrays: Collection[Array]) -> list[int]:
    """Return the axes of arrays of equal shape, the largest strides first.

    An axis along which all arrays are broadcast comes first, so that long blocks are repeated.
    """
    strides = list(zip(*(array.strides for array in arrays), strict=True))
    reach = [sum(map(abs, of_axis)) or math.inf for of_axis in strides]
    return sorted(range(len(reach)), key=reach.__getitem__, reverse=True)


def compact(array: Array) -> Array:
    """Return a view of each element once, in memory order."""
    array = once(array)
    return array.transpose(memory_order([array]))


def new_like(logits: Array, dtype: Any = None) -> Array:
    """Allocate an output in the logits' memory order and dtype, in native byte order."""
    # NumPy would make a broadcast axis the innermost one.
    repeats = any(size > 1 and not s for size, s in zip(logits.shape, logits.strides, strict=True))
    order: Literal["C", "K"] = "C" if repeats else "K"
    return np.empty_like(logits, dtype or logits.dtype.newbyteorder("="), order, subok=False)


def stand_in(shape: Sequence[int], dtype: Any) -> Array:
    """Return an array that takes no memory, for checks of shape and dtype."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def forwards(arrays: dict[str, Array]) -> dict[str, Array]:
    """View arrays of equal shape in memory order, reversing axes with mostly negative strides."""
    if all(array.flags.c_contiguous for array in arrays.values()):
        return arrays
    order = memory_order(arrays.values())
    views = {name: array.transpose(order) for name, array in arrays.items()}
    strides = zip(*(view.strides for view in views.values()), strict=True)
    steps = [1 if sum((s > 0) - (s < 0) for s in of_axis) >= 0 else -1 for of_axis in strides]
    if -1 not in steps:
        return views
    box: Any = (*(slice(None, None, step) for step in steps), ...)
    return {name: view[box] for name, view in views.items()}
