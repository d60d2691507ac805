"""Positions in error messages. If a call gets a chunk, they refer to the whole array."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

Starts = dict[str, tuple[int, ...]]  # the start of the chunk of each argument, by name

_starts: ContextVar[Starts | None] = ContextVar("_starts", default=None)


@contextlib.contextmanager
def counted_from(starts: Starts) -> Iterator[None]:
    """Let errors state positions in the whole arrays, of which the arguments are chunks."""
    token = _starts.set(starts)
    try:
        yield
    finally:
        _starts.reset(token)


def position(at: tuple[Any, ...], name: str = "") -> str:
    """Describe the position of an element of the argument ``name``; empty for a scalar."""
    start = (_starts.get() or {}).get(name, (0,) * len(at))
    index = tuple(int(i) + first for i, first in zip(at, start, strict=True))
    return f" at position {index[0] if len(index) == 1 else index}" if index else ""
