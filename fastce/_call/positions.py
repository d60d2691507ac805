"""Where an element is, in the words of an error: in the whole array, if only a chunk is at hand."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

Starts = dict[str, tuple[int, ...]]  # by the name of an argument, where the chunk of it begins

_starts: ContextVar[Starts | None] = ContextVar("_starts", default=None)


@contextlib.contextmanager
def counted_from(starts: Starts) -> Iterator[None]:
    """Let the positions of errors be those in the arrays of which the arguments are chunks."""
    token = _starts.set(starts)
    try:
        yield
    finally:
        _starts.reset(token)


def position(at: tuple[Any, ...], name: str = "") -> str:
    """Say where an element of the argument ``name`` is; a scalar has no position."""
    start = (_starts.get() or {}).get(name, (0,) * len(at))
    index = tuple(int(i) + first for i, first in zip(at, start, strict=True))
    return f" at position {index[0] if len(index) == 1 else index}" if index else ""
