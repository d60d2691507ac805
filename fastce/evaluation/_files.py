"""Arrays in files, row by row, for the command line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastce._call import checks_bridges, checks_evaluation
from fastce._call.layout import Array

# What NumPy raises for a damaged file, and zipfile for an archive that it cannot read.
UNREADABLE: tuple[type[Exception], ...] = (
    *(EOFError, ValueError, TypeError, LookupError, SyntaxError, tokenize.TokenError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)
with contextlib.suppress(ImportError):  # Python may be built without it
    from lzma import LZMAError

    UNREADABLE += (LZMAError,)


class Rows(NamedTuple):
    """An array in a file, and a way to read a range of its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], Array]

    def flat(self, axes: int) -> Rows:
        """Join all axes except the last ``axes``: the rows of all batches and positions."""
        kept = self.shape[len(self.shape) - axes :]
        count = math.prod(self.shape[: len(self.shape) - axes])
        if self.shape == (count, *kept):
            return self
        inner = max(count // max(self.shape[0], 1), 1)

        def read(start: int, stop: int) -> Array:
            first, last = start // inner, -(-stop // inner)
            part = self.read(first, last)
            if not part.flags.c_contiguous:  # to join its axes, all of it would be copied
                of_part = np.arange(start - first * inner, stop - first * inner)
                return part[np.unravel_index(of_part, part.shape[: part.ndim - axes])]
            part = part.reshape((last - first) * inner, *kept)
            return part[start - first * inner : stop - first * inner]

        return Rows((count, *kept), self.dtype, read)


def opened(path: str, names: tuple[str, ...], key: dict[str, Any], raw: dict[str, Any]) -> Rows:
    """Open an array in the format that the suffix names; ``key`` or ``names`` pick one of several.

    A file with another suffix is raw: numbers of one dtype, several per row or one. ``key`` and
    ``raw`` are options of the command line and their values.
    """
    suffix = os.path.splitext(path)[1].lower()
    several, known = suffix in (".npz", ".safetensors"), suffix in (".npy", ".npz", ".safetensors")
    checks_evaluation.only_raw(path, ({} if several else key) | (raw if known else {}))
    (chosen_key,) = key.values()
    if suffix == ".npy":
        return in_npy(path)
    if suffix == ".npz":
        return in_npz(path, chosen_key, names)
    if suffix == ".safetensors":
        return in_safetensors(path, chosen_key, names)
    dtype, *columns = raw.values()
    return in_raw(path, dtype, *columns)


def in_npz(path: str, key: str | None, names: tuple[str, ...]) -> Rows:
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as arrays:
            found = list(arrays)
            # A member that is not an array is read as bytes, which are neither logits nor labels.
            return in_memory(np.asarray(arrays[checks_evaluation.chosen(path, found, key, names)]))
    except UNREADABLE as error:
        checks_evaluation.unreadable(path, ".npz", error)


def in_memory(array: Array) -> Rows:
    return Rows(array.shape, array.dtype, lambda start, stop: array[start:stop])


def mapped(path: str, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Rows:
    """Map one block after another, so that none stays in the memory of the process."""
    row = math.prod(shape[1:]) * dtype.itemsize

    def read(start: int, stop: int) -> Array:
        part: tuple[int, ...] = (stop - start, *shape[1:])
        if 0 in part or row == 0:  # which cannot be mapped
            return np.empty(part, dtype)
        return np.memmap(path, dtype, "r", offset + start * row, part)

    return Rows(shape, dtype, read)


def in_npy(path: str) -> Rows:
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                return in_memory(np.load(path, mmap_mode="r"))
            shape, fortran_order, dtype = read_header(file)
        except UNREADABLE as error:
            checks_evaluation.unreadable(path, ".npy", error)
        offset = file.tell()
    if not dtype.hasobject:  # pickled objects have any size, and are rejected later by their dtype
        checks_evaluation.whole_file(path, offset + math.prod(shape) * dtype.itemsize)
    if fortran_order and len(shape) > 1:
        return in_memory(np.load(path, mmap_mode="r"))
    return mapped(path, dtype, shape, offset)


def in_raw(path: str, name: str | None, columns: int | None = None) -> Rows:
    dtype = checks_evaluation.raw_dtype(path, name, "iu" if columns is None else "f")
    row = dtype.itemsize * (1 if columns is None else columns)
    count = checks_evaluation.rows_of_raw(path, os.stat(path), row)
    return mapped(path, dtype, (count,) if columns is None else (count, columns), 0)


def in_safetensors(path: str, key: str | None, names: tuple[str, ...]) -> Rows:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        checks_bridges.missing_host("safetensors", "evaluation", error)
    try:
        with safe_open(path, "np") as file:
            chosen = checks_evaluation.chosen(path, list(file.keys()), key, names)
            part = file.get_slice(chosen)
            shape, kind = tuple(part.get_shape()), part.get_dtype()
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    dtype = checks_evaluation.tensor_dtype(path, kind)
    # safetensors would read whole slices of the first axis. After the size of the header, and the
    # header in JSON, come the arrays, each in one piece.
    with open(path, "rb") as opened_file:
        size = int.from_bytes(opened_file.read(8), "little")
        begin, _ = json.loads(opened_file.read(size))[chosen]["data_offsets"]
    return mapped(path, dtype, shape, 8 + size + begin)
