"""Makers of arrays in every memory layout that NumPy allows.

Each maker except `zero_strides` returns an array that equals its argument, which has two dimensions
or more.
"""

from __future__ import annotations

import tempfile

import numpy as np


def fortran(a):
    return np.asfortranarray(a)


def every_other_row(a):
    spread = np.zeros((2 * a.shape[0], *a.shape[1:]), a.dtype)
    spread[::2] = a
    return spread[::2]


def every_third_element(a):
    spread = np.zeros((*a.shape[:-1], 3 * a.shape[-1]), a.dtype)
    spread[..., 1::3] = a
    return spread[..., 1::3]


def backwards(a):
    return np.ascontiguousarray(a[::-1, ..., ::-1])[::-1, ..., ::-1]


def odd_strides(a):
    """Strides that are not a multiple of the item size: a field of packed records."""
    records = np.zeros(a.shape, dtype=[("pad", np.int8), ("x", a.dtype)])
    records["x"] = a
    return records["x"]


def byte_swapped(a):
    return a.astype(a.dtype.newbyteorder("S"))


def unaligned(a):
    room = np.zeros(a.nbytes + 1, np.uint8)
    view = room[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def misaligned_for_vectors(a):
    """Aligned for the item, but not for a vector."""
    room = np.zeros(a.size + 1, a.dtype)
    view = room[1:].reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def memory_mapped(a):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, a.dtype, "w+", shape=a.shape)
    mapped[...] = a
    return mapped


LAYOUTS = {
    maker.__name__: maker
    for maker in (
        fortran,
        every_other_row,
        every_third_element,
        backwards,
        odd_strides,
        byte_swapped,
        unaligned,
        misaligned_for_vectors,
        read_only,
        memory_mapped,
    )
}


def zero_strides(a):
    """The first row over and over: not equal to the argument, but of its shape."""
    return np.broadcast_to(a[:1], a.shape)
