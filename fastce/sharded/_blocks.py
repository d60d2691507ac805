"""Arrays as rows: views if their memory allows it, otherwise copies, one block after another."""

from typing import Any

import numpy as np

from fastce._call.layout import Array


def matrices(arrays: dict[str, Array]) -> dict[str, Array] | None:
    """View arrays (batch axes..., classes) of equal shape as (rows, classes) if possible.

    Otherwise all as (outer, inner, classes). None if one of them has more batch axes in memory, or
    a distance between classes that is not a whole number of items, as fields of records may have.
    """
    *shape, classes = next(iter(arrays.values())).shape
    if classes > 1 and any(array.strides[-1] % array.itemsize for array in arrays.values()):
        return None
    joined: list[tuple[int, tuple[int, ...]]] = []
    for axis, size in enumerate(shape):
        strides = tuple(array.strides[axis] for array in arrays.values())
        if size == 1:
            continue
        if joined and joined[-1][1] == tuple(stride * size for stride in strides):
            joined[-1] = (joined[-1][0] * size, strides)
        else:
            joined.append((size, strides))
    if len(joined) > 2:
        return None
    sizes = [size for size, _ in joined] or [1]
    return {name: array.reshape(*sizes, classes) for name, array in arrays.items()}


def gather(array: Array, axes: int, start: int, stop: int, dtype: Any) -> Array:
    """Copy the rows [start, stop) of the leading ``axes`` to a new contiguous array."""
    with np.errstate(all="ignore"):  # a number may be out of range for the new dtype
        rows: Array = array[_positions(array, axes, start, stop)]
        return rows.astype(dtype, order="C")


def scatter(block: Array, array: Array, axes: int, start: int, stop: int) -> None:
    """Copy a contiguous block back to the rows [start, stop)."""
    with np.errstate(all="ignore"):  # a number may be out of range for the array's dtype
        array[_positions(array, axes, start, stop)] = block


def _positions(array: Array, axes: int, start: int, stop: int) -> tuple[Any, ...]:
    """Return the index of some rows."""
    if axes == 0:
        return (None,)  # a single row
    if axes == 1:
        return (slice(start, stop),)
    return np.unravel_index(np.arange(start, stop), array.shape[:axes])
