"""What `_sharded_rows` alone needs of calls: to go when that module enters the kernels itself."""

import math
from typing import Any

import numpy as np

from fastce import _isa, _layout
from fastce._layout import Array

BLOCK_ELEMENTS = 1 << 15


def sufficient_type(logits: Array, factors: tuple[float, ...], grad_output: Array) -> Any:
    """Return the type to compute in: float64 where factors may leave the range of float32."""
    largest = float(np.abs(_layout.once(grad_output)).max(initial=0.0))
    bits = abs(math.log2(largest)) if largest else 0.0
    wide = logits.dtype.itemsize == 8 or (grad_output.dtype.itemsize > 4 and bits > 100)
    return np.dtype(np.float64 if wide else np.float32)


class Batch:
    """The arrays of one call, the class axis last, and the kernel that goes over them."""

    def __init__(self, kernel: Any, logits: Array, **inputs: Array | None) -> None:
        self.kernel = kernel
        self.logits = logits
        self.inputs = inputs
        self.real: Any = None

    def sum_of_weights(self) -> tuple[float, bool]:
        """Check the labels, and add up the weights of their rows."""
        logits = np.broadcast_to(np.float32(), self.logits.shape)
        found: tuple[float, bool] = self.kernel.weigh(
            logits, self.inputs["labels"], self.inputs["sample_weight"]
        )
        return found

    def scale_overflows(self, logit_scale: float) -> bool:
        """Return False: the run looks."""
        return False

    def run(self, scale: float, **outputs: Array) -> None:
        """Go over all rows."""
        _isa.core.SoftmaxRun(self.kernel, scale, self.logits, **self.inputs, **outputs).total()
