"""The losses under test, and what a case of one is."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from batches import on_grid

import fastce
from fastce import functions, losses, reference

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REDUCTIONS = ("mean", "sum", "none")
_NAMES = {name.replace("_", ""): name for name in functions.__all__}
FUNCTIONS = {loss: _NAMES[loss.lower()] for loss in losses.__all__}  # the function of each class
DISTILLATION = "SoftmaxKLDivergence"  # its target is of the logits' shape, and holds logits
LOSSES = tuple(loss for loss in FUNCTIONS if loss != DISTILLATION)
SOFTMAX = tuple(loss for loss in LOSSES if loss.startswith("Softmax"))
SIGMOID = tuple(loss for loss in LOSSES if loss not in SOFTMAX)


@dataclass(frozen=True)
class Batch:
    logits: np.ndarray
    target: np.ndarray
    call: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A loss with its options, and the maker of a batch for it.

    `logits(rng, shape)` makes the logits, `target(rng, logits, axis)` the target, and each value of
    `call` is a `maker(rng, logits, target, axis)` of the keyword argument of its name.
    """

    name: str
    loss: str
    target: Callable[..., np.ndarray]
    shape: tuple[int, ...] = (33, 10)
    logits: Callable[..., np.ndarray] = on_grid
    call: dict[str, Callable[..., Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{FUNCTIONS[self.loss]}:{self.name}"

    @property
    def is_softmax(self) -> bool:
        return self.loss in SOFTMAX or self.loss == DISTILLATION

    @property
    def axis(self) -> int:
        return self.options.get("axis", -1)

    @property
    def reduction(self) -> str:
        return self.options.get("reduction", "mean")

    def batch(self, dtype: str = "float64", seed: int = 0) -> Batch:
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        logits = np.asarray(self.logits(rng, self.shape)).astype(DTYPES[dtype])
        wide = logits.astype(np.float64)
        target = self.target(rng, wide, self.axis)
        if self.loss == DISTILLATION:
            target = target.astype(logits.dtype)
        call = {name: make(rng, wide, target, self.axis) for name, make in self.call.items()}
        return Batch(logits, target, call)

    def build(self) -> Any:
        """The public loss of this case."""
        return getattr(fastce, self.loss)(**self.options)

    def truth(self, batch: Batch) -> tuple[Any, np.ndarray, np.ndarray]:
        """Value, gradient and Hessian of the reference, in more precision than the logits have."""
        wider = np.longdouble if batch.logits.dtype.itemsize >= 8 else np.float64
        function = getattr(reference, FUNCTIONS[self.loss])
        logits = batch.logits.astype(wider)
        return function(logits, batch.target, **self.options, **batch.call)


def maker(loss: str, target: Callable[..., np.ndarray]) -> Callable[..., Case]:
    """Return a maker of cases of a loss; its options and the fields of `Case` are keywords."""

    def make(name: str, target: Callable[..., np.ndarray] = target, **options: Any) -> Case:
        own = {key: options.pop(key) for key in ("shape", "logits", "call") if key in options}
        return Case(name, loss, target, **own, options=options)

    return make


def small_batch(loss: str, dtype: str | type = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Logits of 6 rows and 3 classes, and a target that the loss accepts."""
    rng = np.random.default_rng(7)
    z = on_grid(rng, (6, 3)).astype(dtype)
    if loss == DISTILLATION:
        return z, on_grid(rng, (6, 3)).astype(dtype)
    return z, rng.integers(3, size=6) if loss in SOFTMAX else rng.integers(2, size=z.shape)
