"""Views of arrays with another order of axes or as rows, and new arrays with the same layout."""

import math
from collections.abc import Collection, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Box = tuple[Any, ...]


def matrices(arrays: dict[str, Array]) -> dict[str, Array] | None:
    """View arrays (batch axes..., classes) of equal shape as (rows, classes) if possible.

    Otherwise all as (outer, inner, classes), or None if one of them has more batch axes in memory.
    """
    *shape, classes = next(iter(arrays.values())).shape
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


def last_axis(array: Array, axis: int) -> Array:
    return array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)


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
    box: Box = (*(slice(None, None, step) for step in steps), ...)
    return {name: view[box] for name, view in views.items()}


def boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[int, Box]]:
    """Cover the flat range [start, stop) of an array with boxes: (offset in the range, index)."""
    if start >= stop:
        return
    if not shape:
        yield 0, (...,)
        return
    inner = math.prod(shape[1:])
    first, last = start // inner, (stop - 1) // inner
    head, tail = start - first * inner, stop - last * inner
    if first == last and (head or tail < inner):
        for offset, box in boxes(shape[1:], head, tail):
            yield offset, (slice(first, first + 1), *box)
        return
    done = 0
    if head:
        for offset, box in boxes(shape[1:], head, inner):
            yield offset, (slice(first, first + 1), *box)
        done = inner - head
        first += 1
    whole = last + (tail == inner)
    if whole > first:
        yield done, (slice(first, whole),)
        done += (whole - first) * inner
    if tail < inner:
        for offset, box in boxes(shape[1:], 0, tail):
            yield done + offset, (slice(last, last + 1), *box)


def gather(array: Array, axes: int, start: int, stop: int, dtype: Any) -> Array:
    """Copy the rows [start, stop) of the leading ``axes`` to a new contiguous array."""
    rest = array.shape[axes:]
    block: Array = np.empty((stop - start, *rest), dtype)
    with np.errstate(all="ignore"):  # of a number that the working precision cannot hold
        for offset, box in boxes(array.shape[:axes], start, stop):
            part = array[box]
            rows = math.prod(part.shape[:axes])
            block[offset : offset + rows].reshape(part.shape)[...] = part
    return block


def scatter(block: Array, array: Array, axes: int, start: int, stop: int) -> None:
    """Copy a contiguous block back to the rows [start, stop)."""
    with np.errstate(all="ignore"):  # of a number that the array's type cannot hold
        for offset, box in boxes(array.shape[:axes], start, stop):
            part = array[box]
            rows = math.prod(part.shape[:axes])
            part[...] = block[offset : offset + rows].reshape(part.shape)
