"""The list of what is measured: operations on shapes, with their targets.

A line added to ``CELLS`` is one more cell that is timed, checked and reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastce import functions, losses

Target = Literal["labels", "probabilities", "logits", "binary", "none"]
Limit = Literal["copy", "multiply", "max"]


@dataclass(frozen=True)
class Cell:
    """One operation on one shape, dtype and kind of target.

    ``limit`` names the NumPy call that moves the same memory with almost no arithmetic:
    ``copy`` is ``np.copyto(out, logits)``, ``multiply`` is ``np.multiply(logits, target, out=out)``
    and ``max`` is ``np.max(logits)``. NumPy runs all three on one thread, whatever the peers have.

    The targets for fastce, by thread count (no entry: no target), are ``lead``, how many times
    faster than the fastest peer it should be, and ``over_limit``, how many times the limit it may
    take. ``ahead_of`` is a lead over a peer by name, and ``microseconds`` the most a call may take.
    """

    operation: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    target: Target = "labels"
    gradient: bool = True
    axis: int = -1
    label_smoothing: float = 0.0
    gamma: float = 2.0
    alpha: float | None = None
    limit: Limit = "copy"
    lead: Mapping[int, float] = field(default_factory=dict, hash=False)
    over_limit: Mapping[int, float] = field(default_factory=dict, hash=False)
    ahead_of: Mapping[str, float] = field(default_factory=dict, hash=False)
    microseconds: float | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    @property
    def per_call(self) -> bool:
        """Small enough that the time per call says more than the time per element."""
        return self.elements < 10_000

    @property
    def options(self) -> dict[str, Any]:
        """The options of the loss, without the reduction, named as in fastce and its reference."""
        if self.operation == "sigmoid_focal_loss":
            return {"gamma": self.gamma, "alpha": self.alpha}
        if self.operation == "softmax_focal_loss":
            return {"gamma": self.gamma, "axis": self.axis}
        if self.operation == "softmax_cross_entropy":
            return {"label_smoothing": self.label_smoothing, "axis": self.axis}
        return {}

    @property
    def group(self) -> str:
        """Operation, shape, dtype and options, as text for file names and patterns."""
        parts = [self.operation]
        if not self.gradient:
            parts.append("value")
        parts += ["x".join(map(str, self.shape)), self.dtype]
        if self.axis != -1:
            parts.append(f"axis={self.axis}")
        if self.target == "probabilities":
            parts.append("probabilities")
        if self.label_smoothing:
            parts.append(f"label_smoothing={self.label_smoothing}")
        if "focal" in self.operation:
            parts.append(f"gamma={self.gamma:g}")
        return "-".join(parts)

    def shrunk(self, elements: int) -> Cell:
        """The same cell with fewer samples: about ``elements`` in all, every class kept."""
        if self.elements <= elements:
            return self
        if self.target == "binary":
            return replace(self, shape=(elements,))
        if self.axis == -1:
            return replace(self, shape=(max(elements // self.classes, 4), self.classes))
        height, width = self.shape[2:]
        return replace(self, shape=(2, self.classes, min(height, 64), min(width, 64)))


# The class of each function; both lists are in the same order.
LOSSES = {
    name: getattr(losses, kind)
    for name, kind in zip(functions.__all__, losses.__all__, strict=True)
}
CROSS_ENTROPY, DIVERGENCE = "softmax_cross_entropy", "softmax_kl_divergence"
KL_PEERS = {"torch": 5, "torch.compile": 5, "JAX": 5}
NEAR_A_COPY = {1: 1.6, 2: 1.2}  # compared with a copy on one thread, whatever the thread count
ONE_READ = {1: 2.5, 2: 2.5}
ELEMENTS = 2**22

CELLS = [
    Cell(CROSS_ENTROPY, (64, 10), lead={1: 1.5, 2: 1.5}, microseconds=4),
    Cell(CROSS_ENTROPY, (65536, 10), lead={1: 3, 2: 3}),
    Cell(CROSS_ENTROPY, (65536, 100), lead={1: 2, 2: 2}),
    Cell(CROSS_ENTROPY, (8192, 1000), lead={1: 2, 2: 2}, over_limit=NEAR_A_COPY),
    Cell(CROSS_ENTROPY, (1024, 32000), lead={1: 3, 2: 3}, over_limit=NEAR_A_COPY),
    Cell(CROSS_ENTROPY, (256, 131072), lead={1: 3, 2: 3}, over_limit=NEAR_A_COPY),
    Cell(CROSS_ENTROPY, (8192, 1000), "float64", lead={1: 2.5, 2: 2.5}),
    Cell(CROSS_ENTROPY, (1024, 32000), "bfloat16", lead={1: 4, 2: 4}),
    Cell(CROSS_ENTROPY, (1024, 32000), "float16"),
    Cell(CROSS_ENTROPY, (1024, 32000), gradient=False, limit="max", over_limit=ONE_READ),
    Cell(CROSS_ENTROPY, (1024, 32000), target="probabilities"),
    Cell(CROSS_ENTROPY, (1024, 32000), label_smoothing=0.1),
    Cell(CROSS_ENTROPY, (8, 21, 256, 256), axis=1, ahead_of={"torch": 3, "JAX": 3}),
    Cell("softmax_focal_loss", (1024, 1000)),
    Cell(DIVERGENCE, (8192, 1000), target="logits", ahead_of=KL_PEERS),
    Cell(DIVERGENCE, (1024, 32000), target="logits", ahead_of=KL_PEERS),
    Cell("bce_with_logits", (1000,), target="binary", limit="multiply", microseconds=6),
    Cell(
        "bce_with_logits",
        (ELEMENTS,),
        target="binary",
        limit="multiply",
        lead={1: 4, 2: 3},
        over_limit={1: 2.0},
    ),
    Cell(
        "sigmoid_focal_loss",
        (ELEMENTS,),
        target="binary",
        alpha=0.25,
        limit="multiply",
        lead={1: 4, 2: 3},
        over_limit={1: 2.5},
    ),
    Cell("softmax", (1024, 32000), target="none", ahead_of={"SciPy": 4}),
    Cell("log_softmax", (1024, 32000), target="none"),
    Cell("logsumexp", (1024, 32000), target="none", limit="max", ahead_of={"SciPy": 4}),
    Cell("token_log_probs", (1024, 32000), limit="max"),
]

# The two sweeps behind the plots. The first keeps the number of elements, so that only the
# classes vary; its arrays are larger than a last-level cache, so that the limit is memory.
SWEEPS = {
    "classes": [
        Cell(CROSS_ENTROPY, (2 * ELEMENTS // classes, classes))
        for classes in (2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384, 65536, 262144)
    ],
    "rows": [
        Cell(CROSS_ENTROPY, (rows, 100))
        for rows in (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
    ],
}
SWEEP_SUBJECTS = ("limit", "fastce", "NumPy", "torch", "JAX", "Numba")
