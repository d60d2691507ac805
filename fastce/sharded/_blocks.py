"""Arrays as rows: views if their memory allows it, otherwise copies, one block after another."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastce._call.layout import Array

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
