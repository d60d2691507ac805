"""Memory between two inaccessible pages: an access one byte too far, read or write, is a fault.

A fault ends the process, with a traceback if faulthandler is on, as it is under pytest.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

PAGE = mmap.PAGESIZE
PROT_NONE = 0
AVAILABLE = sys.platform.startswith("linux")


class Arena:
    """Slots of memory, each between two pages without access. An array takes one slot."""

    def __init__(self, slots: int, pages: int) -> None:
        self._slots, self._size = slots, pages * PAGE
        self._pitch = self._size + PAGE
        self._memory = mmap.mmap(-1, slots * self._pitch + PAGE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._next = 0
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for slot in range(slots + 1):
            if libc.mprotect(self._base + slot * self._pitch, PAGE, PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def restart(self) -> None:
        """Use the slots again; the arrays made so far are no longer valid."""
        self._next = 0

    def empty(self, shape, dtype, *, at_end: bool, row_gap: int = 0) -> np.ndarray:
        """Make an array that ends (or begins) where its memory does.

        With `row_gap`, that many items lie between rows, but not behind the last one.
        """
        dtype = np.dtype(dtype)
        strides: list[int] = []
        pitch = dtype.itemsize
        for axis in range(len(shape) - 1, -1, -1):
            strides.insert(0, pitch)
            last = axis == len(shape) - 1
            pitch *= shape[axis] + (row_gap if last else 0)
        extent = 0
        if 0 not in shape:
            extent = dtype.itemsize + sum(
                (size - 1) * stride for size, stride in zip(shape, strides, strict=True)
            )
        if self._next == self._slots or extent > self._size:
            raise ValueError("the arena is too small")
        start = self._base + self._next * self._pitch + PAGE
        self._next += 1
        if at_end:
            start += self._size - extent
        memory = (ctypes.c_char * extent).from_address(start)
        return np.ndarray(shape, dtype, memory, 0, strides)

    def copy(self, array, *, at_end: bool, row_gap: int = 0) -> np.ndarray:
        """Copy an array into a slot."""
        array = np.asarray(array)
        gap = row_gap if array.ndim >= 2 else 0
        result = self.empty(array.shape, array.dtype, at_end=at_end, row_gap=gap)
        result[...] = array
        return result
