"""One call of a sigmoid loss: check arguments, lay out arrays, split into tasks, reduce."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import _checks, _isa, _layout
from fastce._evaluate import (
    BLOCK_ELEMENTS,
    Array,
    Call,
    check_probabilities,
    checked_denominator,
    handed_back,
    new_like,
    sufficient_type,
    sum_of_weights,
    sum_over_elements,
    working_type,
)


def sigmoid_family(
    loss: Any, results: int, logits: npt.ArrayLike, target: npt.ArrayLike, call: Call
) -> tuple[Any, ...]:
    """Evaluate a loss of independent elements."""
    z = _checks.logits(logits)
    y = _checks.sigmoid_target(target, z)
    weight, largest = _checks.sample_weight_and_largest(call.sample_weight, z.shape)
    mask = _checks.where(call.where, z.shape)
    normalizer = _checks.normalizer(call.normalizer)
    factor = _checks.grad_output(call.grad_output, z.shape, loss.reduction)
    grad_output = factor if isinstance(factor, np.ndarray) else None
    scale = 1.0 if isinstance(factor, np.ndarray) else factor
    inputs = {
        "target": y,
        "sample_weight": weight,
        "mask": mask,
        **_checks.element_weights(loss.element_weights, z.shape),
        "grad_output": grad_output,
    }
    outs = _checks.outputs(call.out, results - 1, z, list(inputs.values())) if results > 1 else ()
    own_losses = _checks.loss_output(
        call.loss_out, loss.reduction, z.shape, working_type(z), [z, *inputs.values(), *outs]
    )
    elements = Elements(loss.kernel(), z, inputs)
    if own_losses is not None or any(array is not None for array in outs):
        elements.check_target()
    arrays = [new_like(z) if array is None else array for array in outs]
    outputs = dict(zip(("grad", "hess"), arrays, strict=False))
    returned = handed_back(call.out, arrays)
    denominator, any_counts = 1.0, True
    if loss.reduction == "mean" and normalizer is not None:
        denominator = normalizer
    elif loss.reduction == "mean":
        total, any_counts = elements.sum_of_weights()
        denominator = checked_denominator(total, any_counts)
    if not any_counts:
        elements.check_target()
        for array in arrays:
            array[...] = 0
        return math.nan, *returned
    scale /= denominator
    elements.real = sufficient_type(z, (scale, largest, loss.largest_factor), grad_output)
    if loss.reduction == "none":
        losses = new_like(z, working_type(z)) if own_losses is None else own_losses
        elements.run(scale, **outputs, loss=losses)
        return losses if own_losses is None else call.loss_out, *returned
    return elements.run(scale, **outputs) / denominator, *returned


class Elements:
    """The arrays of one call, all of the logits' shape, and the kernel that goes over them."""

    def __init__(self, kernel: Any, logits: Array, inputs: dict[str, Array | None]) -> None:
        self.kernel = kernel
        self.logits = logits
        self.real = working_type(logits)
        self.inputs = {name: array for name, array in inputs.items() if array is not None}

    def _type(self, name: str, array: Array) -> Any:
        """Return the type that the kernel takes an array in: its own where there is a choice."""
        if name == "mask":
            return np.dtype(bool)
        native = array.dtype.newbyteorder("=")
        if self.real != working_type(self.logits):
            return self.real
        if name in ("logits", "grad", "hess", "loss"):
            return native
        if name == "target" and native == self.logits.dtype.newbyteorder("="):
            return native
        return self.real

    def sum_of_weights(self) -> tuple[float, bool]:
        """Add up the weights of the elements that count; return whether one of them is not 0."""
        weight, mask = self.inputs.get("sample_weight"), self.inputs.get("mask")
        if weight is None:
            count = self.logits.size if mask is None else np.count_nonzero(mask)
            return float(count), bool(count)
        return sum_of_weights(weight, mask)

    def check_target(self) -> None:
        """Raise if a target that counts is not in [0, 1], before anything is written."""
        target = self.inputs["target"]
        # A float64 that rounds to 1 in the working precision counts as 1.
        dtype = self._type("target", target)
        check_probabilities(target, dtype, 1.0, "lie in [0, 1]", self._used)

    def _used(self) -> Array | None:
        weight, mask = self.inputs.get("sample_weight"), self.inputs.get("mask")
        if weight is None:
            return mask
        counts: Array = weight != 0
        return counts if mask is None else counts & mask

    def run(self, scale: float, **outputs: Array) -> float:
        """Go over all elements."""
        if self.logits.size == 0:
            return 0.0
        arrays = _layout.forwards({"logits": self.logits, **self.inputs, **outputs})
        types = {name: self._type(name, array) for name, array in arrays.items()}
        lines = {name: _layout.line(array, types[name]) for name, array in arrays.items()}
        if all(view is not None for view in lines.values()):
            work = _isa.core.SigmoidRun(self.kernel, scale, **lines)
        else:
            work = _BlockedElements(self.kernel, scale, arrays, types, tuple(outputs))
        total = sum_over_elements(work, self.logits.size)
        # Targets are watched on the way, which costs nothing: a pass of its own is needed only
        # before an array of the caller's is written.
        if work.suspect:
            self.check_target()
        return total


class _BlockedElements:
    """What SigmoidRun is, for arrays that do not all lie as one contiguous axis: block by block.

    Only those are copied that have to be.
    """

    def __init__(
        self,
        kernel: Any,
        scale: float,
        arrays: dict[str, Array],
        types: dict[str, Any],
        outputs: tuple[str, ...],
    ) -> None:
        self.kernel = kernel
        self.scale = scale
        self.suspect = False
        self.read = {
            name: _layout.reader(array, types[name], BLOCK_ELEMENTS)
            for name, array in arrays.items()
            if name not in outputs
        }
        lines = {name: _layout.line(arrays[name], types[name]) for name in outputs}
        self.written = {name: view for name, view in lines.items() if view is not None}
        self.scattered = {
            name: (arrays[name], types[name]) for name, view in lines.items() if view is None
        }

    def __call__(self, start: int, stop: int) -> float:
        total = 0.0
        for first in range(start, stop, BLOCK_ELEMENTS):
            last = min(first + BLOCK_ELEMENTS, stop)
            block = {name: read(first, last) for name, read in self.read.items()}
            for name, view in self.written.items():
                block[name] = view[first:last]
            for name, (_, dtype) in self.scattered.items():
                block[name] = np.empty(last - first, dtype)
            run = _isa.core.SigmoidRun(self.kernel, self.scale, **block)
            total = run(0, last - first, total)
            if run.suspect:
                self.suspect = True
            for name, (array, _) in self.scattered.items():
                _layout.scatter(block[name], array, array.ndim, first, last)
            del run, block  # before the next ones are made, not after
        return total
