"""One call of a softmax loss: check arguments, lay out arrays, split into tasks, reduce."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import _checks, _isa, _layout, _parallel

Array = npt.NDArray[Any]
Work = Callable[[int, int], float]  # does the rows [start, stop), returns the sum of their losses

VALUE, GRADIENT, HESSIAN = 1, 2, 3  # how many results: the loss, with gradient, with both

# Elements of a gathered block: with one of outputs beside it, 256 KB of float32.
BLOCK_ELEMENTS = 1 << 15

# Labels that are checked between two looks for an interrupt: some 10 milliseconds.
LABELS = 1 << 23

# The rows of a block of the kernels: a split between blocks changes no sum.
GROUP_ROWS = 64


# Factors of up to 2**FACTOR_BITS either way are multiplied in float32, which ends at 2**128. What
# makes a product larger, or a part of it smaller, is left to float64.
FACTOR_BITS = 100


class Call(NamedTuple):
    """The arguments that every method of every loss takes after logits and target."""

    sample_weight: Any = None
    where: Any = None
    normalizer: Any = None
    grad_output: Any = None
    out: Any = None
    loss_out: Any = None


def working_type(logits: Array) -> Any:
    """Return the type that the kernels compute in."""
    return np.dtype(np.float64 if logits.dtype.itemsize == 8 else np.float32)


def bits_from_one(factor: float) -> float:
    """Return how far a factor is from 1, in powers of two; 0 is as good as 1."""
    return abs(math.log2(abs(factor))) if factor else 0.0


def sufficient_type(logits: Array, factors: tuple[float, ...], grad_output: Array | None) -> Any:
    """Return the type to compute in: float64 where factors may leave the range of float32."""
    bits = sum(map(bits_from_one, factors))
    # float32 and less is not looked at, which would take as long as a part of the loss itself.
    if grad_output is not None and grad_output.size and grad_output.dtype.itemsize > 4:
        once = _layout.once(grad_output)
        bits += bits_from_one(max(float(once.max()), -float(once.min())))
    return np.dtype(np.float64) if bits > FACTOR_BITS else working_type(logits)


def narrowed(losses: Array, logits: Array) -> Array:
    """Return losses in the type that they are given back in."""
    with np.errstate(all="ignore"):
        return losses.astype(working_type(logits), copy=False)


def checked_denominator(total: float, any_counts: bool) -> float:
    """Return what a mean divides by: NaN where no weight counts, or their sum is infinite."""
    if not any_counts or math.isinf(total):
        return math.nan
    _checks.positive_sum_of_weights(total)
    return total


def sum_of_weights(weight: Array, used: Array | None = None) -> tuple[float, bool]:
    """Return the sum of the weights that are used, and whether one of them is not 0."""
    where: Any = True if used is None else used
    repeats = 1
    if used is None and weight.size:
        once = _layout.once(weight)
        repeats, weight = weight.size // once.size, once
    with np.errstate(over="ignore"):
        total = float(np.sum(weight, dtype=np.float64, where=where)) * repeats
    return total, bool(total) or bool(np.any(weight, where=where))


def losses_like(given: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a contiguous array for single losses: the caller's own if that can be written."""
    if given is not None and given.flags.c_contiguous and given.dtype == dtype:
        return given
    return np.empty(shape, dtype)


def returned_losses(losses: Array, given: Array | None, own: Any, logits: Array) -> Any:
    """Return single losses in the type that they are given back in, by the caller's own array."""
    if given is None:
        return narrowed(losses, logits)
    if losses is not given:
        with np.errstate(all="ignore"):
            given[...] = losses
    return own


def _sum(parts: list[float]) -> float:
    """Add up exactly, in any order; fsum raises where +inf meets -inf, and NaN is right there."""
    try:
        return math.fsum(parts)
    except (OverflowError, ValueError):
        return sum(parts)


def handed_back(out: Any, written: list[Array]) -> list[Array]:
    """Return the caller's own outputs for the views of them that are written."""
    if out is None:
        return written
    given = out if isinstance(out, tuple) else (out,)
    return [array if own is None else own for own, array in zip(given, written, strict=True)]


# The softmax family -------------------------------------------------------------------------------


def softmax_family(
    loss: Any, results: int, logits: npt.ArrayLike, target: npt.ArrayLike, call: Call
) -> tuple[Any, ...]:
    """Evaluate a loss whose samples are rows, with its classes along ``loss.axis``."""
    z = _checks.logits(logits)
    axis = _checks.class_axis(z, loss.axis)
    y, is_labels = _checks.softmax_target(target, z, axis, probabilities=loss.takes_probabilities)
    shape, classes = z.shape[:axis] + z.shape[axis + 1 :], z.shape[axis]
    _checks.weights_fit(loss.class_weight_name, loss.class_weight, classes)
    weight, largest = _checks.sample_weight_and_largest(call.sample_weight, shape)
    mask = _checks.where(call.where, z.shape, shape)
    normalizer = _checks.normalizer(call.normalizer)
    factor = _checks.grad_output(call.grad_output, shape, loss.reduction)
    inputs = [y, weight, mask, factor if isinstance(factor, np.ndarray) else None]
    outs = _checks.outputs(call.out, results - 1, z, inputs) if results > 1 else ()
    own_losses = _checks.loss_output(
        call.loss_out, loss.reduction, shape, working_type(z), [z, *inputs, *outs]
    )

    batch = Batch(
        kernel=loss.kernel(),
        logits=last_axis(z, axis),
        labels=y if is_labels else None,
        probabilities=None if is_labels else last_axis(y, axis),
        mask=None if mask is None else last_axis(mask, axis),
        sample_weight=weight,
        grad_output=factor if isinstance(factor, np.ndarray) else None,
    )
    weights = batch.sum_of_weights()
    if not is_labels:
        batch.check_probabilities()
    denominator = 1.0
    if loss.reduction == "mean":
        denominator = checked_denominator(*weights) if normalizer is None else normalizer
    arrays = [new_like(z) if array is None else array for array in outs]
    grad, hess = [last_axis(a, axis) for a in arrays] + [None] * (2 - len(arrays))
    returned = handed_back(call.out, arrays)
    scale = 1.0 if isinstance(factor, np.ndarray) else factor
    if math.isnan(denominator) and not weights[1]:  # nothing counts
        for array in arrays:
            array[...] = 0
        return math.nan, *returned
    scale /= denominator
    factors = (scale, largest, loss.largest_factor)
    batch.real = sufficient_type(z, factors, batch.inputs["grad_output"])
    if batch.scale_overflows(getattr(loss, "logit_scale", 1.0)):
        batch.real = np.dtype(np.float64)
    if loss.reduction == "none":
        losses = losses_like(own_losses, shape, batch.real)
        batch.run(scale, grad=grad, hess=hess, loss=losses)
        if classes == 0:  # only ignored rows, or probabilities of nothing
            losses[...] = 0
        return returned_losses(losses, own_losses, call.loss_out, z), *returned
    return batch.run(scale, grad=grad, hess=hess) / denominator, *returned


def group_rows(classes: int, are_planes: bool = False) -> int:
    """Return the number of rows that a task has a multiple of."""
    return GROUP_ROWS if are_planes or classes <= BLOCK_ELEMENTS // GROUP_ROWS else 1


def sum_over_rows(work: Work, rows: int, classes: int, are_planes: bool) -> float:
    """Go over all rows in tasks, and add up their losses."""
    tasks = _parallel.tasks_of(rows, classes, group_rows(classes, are_planes))
    return _sum(_parallel.run(work, tasks, rows * classes))


def sum_over_elements(work: Work, count: int) -> float:
    """Go over all elements in tasks, and add up their losses."""
    tasks = _parallel.tasks_of(count, 1, _isa.core.ELEMENTS_CHUNK)
    return _sum(_parallel.run(work, tasks, count))


def first_outside(array: Array, dtype: Any, largest: float) -> tuple[int, ...] | None:
    """Return where a number of ``array``, as ``dtype``, lies outside [0, largest], if one does.

    It is not always the first one.
    """
    array = _layout.once(array)
    order = _layout.memory_order([array])
    view = array.transpose(order)
    read = _layout.reader(view, dtype, BLOCK_ELEMENTS)
    # Nothing is copied if the array is one contiguous axis; blocks would double the time.
    step = BLOCK_ELEMENTS if _layout.line(view, dtype) is None else max(array.size, 1)

    def check(start: int, stop: int) -> float:
        for first in range(start, stop, step):
            block = read(first, min(first + step, stop))
            position = _isa.core.first_improbable(block, largest)
            if position >= 0:
                return float(first + position)
        return math.inf

    tasks = _parallel.tasks_of(array.size, 1, GROUP_ROWS)
    position = min(_parallel.run(check, tasks, array.size), default=math.inf)
    if position == math.inf:
        return None
    at = dict(zip(order, np.unravel_index(int(position), view.shape), strict=True))
    return tuple(int(at[axis]) for axis in sorted(at))


def check_probabilities(
    array: Array, dtype: Any, largest: float, accepted: str, used: Callable[[], Array | None]
) -> None:
    """Raise if a number of a target lies outside [0, largest], before anything is written.

    Only where one does is it asked which elements are ``used``: the others may hold anything.
    """
    if array.dtype.kind == "b" or array.size == 0:
        return
    at = first_outside(array, dtype, largest)
    if at is None:
        return
    counts = used()
    if counts is not None:
        with np.errstate(invalid="ignore"):
            wrong = ~((array >= 0) & (array.astype(dtype) <= largest)) & counts
        if not wrong.any():
            return
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    _checks.bad_probability("target", array, at, accepted)


def new_like(logits: Array, dtype: Any = None) -> Array:
    """Make an array to write to: of the logits' memory order, and their type in native bytes."""
    # NumPy takes an axis that only repeats for the innermost one.
    repeats = any(size > 1 and not s for size, s in zip(logits.shape, logits.strides, strict=True))
    order: Literal["C", "K"] = "C" if repeats else "K"
    return np.empty_like(logits, dtype or logits.dtype.newbyteorder("="), order, subok=False)


def last_axis(array: Array, axis: int) -> Array:
    return array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)


class Batch:
    """The arrays of one call, the class axis last, and the kernel that goes over them."""

    def __init__(
        self,
        kernel: Any,
        logits: Array,
        labels: Array | None = None,
        probabilities: Array | None = None,
        mask: Array | None = None,
        sample_weight: Array | None = None,
        grad_output: Array | None = None,
    ) -> None:
        self.kernel = kernel
        self.axes = logits.ndim - 1
        self.classes = logits.shape[-1]
        self.rows = math.prod(logits.shape[:-1])
        self.real = working_type(logits)
        self.logits = logits
        self.inputs = {
            "labels": labels,
            "probabilities": probabilities,
            "mask": mask,
            "sample_weight": sample_weight,
            "grad_output": grad_output,
        }

    def sum_of_weights(self) -> tuple[float, bool]:
        """Check the labels, all of them before anything is written, and add up the weights.

        Returns their sum, and whether one of them is not 0.
        """
        labels, weight = self.inputs["labels"], self.inputs["sample_weight"]
        if self.rows == 0:
            return 0.0, False
        if labels is None:
            return (float(self.rows), True) if weight is None else sum_of_weights(weight)
        totals, any_counts = [], False
        for start, (total, counts, position) in self._label_blocks():
            if position >= 0:
                ignore_index = self.kernel.ignore_index
                _checks.bad_label(labels, start + position, self.classes, ignore_index)
            totals.append(total)
            any_counts = any_counts or counts
        return _sum(totals), any_counts

    def denominator(self) -> float:
        """Check the labels, and return the sum of the weights alone."""
        return self.sum_of_weights()[0]

    def check_probabilities(self) -> None:
        """Raise if a probability is negative or not finite, in rows that count."""
        array, weight = self.inputs["probabilities"], self.inputs["sample_weight"]
        assert array is not None
        own = array.dtype.newbyteorder("=")
        dtype = own if _checks.is_float(array) and own.itemsize <= 8 else np.dtype(np.float64)
        check_probabilities(
            array,
            dtype,
            float(np.finfo(dtype if own.kind == "f" else np.float32).max),
            "be at least 0 and finite",
            lambda: None if weight is None else (weight != 0)[..., None],
        )

    def scale_overflows(self, logit_scale: float) -> bool:
        """Return whether the scale takes a finite logit beyond the working precision."""
        if abs(logit_scale) <= 1 or self.real == np.float64 or self.logits.size == 0:
            return False
        array = _layout.once(self.logits)
        view = array.transpose(_layout.memory_order([array]))
        read = _layout.reader(view, self._stored(array), BLOCK_ELEMENTS)
        return any(
            _isa.core.overflows(self.kernel, read(start, min(start + BLOCK_ELEMENTS, view.size)))
            for start in range(0, view.size, BLOCK_ELEMENTS)
        )

    def _label_blocks(self) -> Iterator[tuple[int, tuple[float, bool, int]]]:
        """Yield where a block of labels starts, and what the kernel says of it."""
        labels, weight = self._direct("labels"), self._direct("sample_weight")
        names = ("labels", "sample_weight")
        given = [name for name in names if self.inputs[name] is not None]
        if labels is not None and (weight is not None or "sample_weight" not in given):
            for start in range(0, self.rows, LABELS):
                part = None if weight is None else weight[start : start + LABELS]
                block = labels[start : start + LABELS]
                yield start, _isa.core.weigh(self.kernel, self.classes, block, part)
            return
        for start in range(0, self.rows, BLOCK_ELEMENTS):
            stop = min(start + BLOCK_ELEMENTS, self.rows)
            labels, weight = (
                self._gathered(name, start, stop) if name in given else None for name in names
            )
            yield start, _isa.core.weigh(self.kernel, self.classes, labels, weight)

    def _stored(self, array: Array) -> Any:
        """Return the type that the kernel takes logits and derivatives in."""
        if self.real != working_type(self.logits):
            return self.real
        return array.dtype.newbyteorder("=")

    def _type(self, name: str, array: Array) -> Any:
        """Return the type that the kernel takes an argument in: its own where there is a choice."""
        if name == "mask":
            return np.dtype(bool)
        native = array.dtype.newbyteorder("=")
        if name == "probabilities":
            return native if _checks.is_float(array) and native.itemsize <= 8 else self.real
        return native if name == "labels" or native in (np.float32, np.float64) else np.float64

    def _direct(self, name: str) -> Array | None:
        """Return an argument as a view that the kernel can read in place, if there is one."""
        array = self.inputs[name]
        if array is None or array.dtype != self._type(name, array) or not array.dtype.isnative:
            return None
        return _layout.matrix(array) if name in ("mask", "probabilities") else _layout.vector(array)

    def _gathered(self, name: str, start: int, stop: int) -> Array | None:
        array = self.inputs[name]
        if array is None:
            return None
        view = self._direct(name)
        ndim = 2 if name in ("mask", "probabilities") else 1
        if view is not None and view.ndim == ndim:
            return view[start:stop]
        return _layout.gather(array, self.axes, start, stop, self._type(name, array))

    def _views(self, grad: Array | None, hess: Array | None) -> dict[str, Array] | None:
        """Return all arrays as the kernel reads them in place, or None if one cannot be."""
        views: dict[str, Array] = {}
        arrays = {"logits": self.logits, "grad": grad, "hess": hess}
        for name, array in arrays.items():
            if array is not None:
                view = _layout.matrix(array) if array.dtype == self._stored(array) else None
                if view is None:
                    return None
                views[name] = view
        for name, array in self.inputs.items():
            if array is not None:
                view = self._direct(name)
                if view is None:
                    return None
                views[name] = view
        return views

    def run(
        self,
        scale: float,
        *,
        grad: Array | None = None,
        hess: Array | None = None,
        **rows: Array,
    ) -> float:
        """Go over all rows; ``rows`` are contiguous outputs of one number a row."""
        if self.rows == 0 or (self.classes == 0 and not rows):
            return 0.0
        flat = {name: array.reshape(-1) for name, array in rows.items()}
        views = self._views(grad, hess)
        if views is not None:
            work: Work = _isa.core.SoftmaxRun(self.kernel, scale, **views, **flat)
        else:
            work = self._by_blocks(scale, grad, hess, flat)
        return sum_over_rows(work, self.rows, self.classes, not _layout.is_rows(self.logits))

    def _by_blocks(
        self, scale: float, grad: Array | None, hess: Array | None, rows: dict[str, Array]
    ) -> Work:
        group = group_rows(self.classes)
        step = max(BLOCK_ELEMENTS // max(self.classes, 1) // group, 1) * group
        derivatives = {
            name: array for name, array in (("grad", grad), ("hess", hess)) if array is not None
        }

        def work(start: int, stop: int) -> float:
            total = 0.0
            for first in range(start, stop, step):
                last = min(first + step, stop)
                logits = _layout.gather(
                    self.logits, self.axes, first, last, self._stored(self.logits)
                )
                inputs = {name: self._gathered(name, first, last) for name in self.inputs}
                losses = {name: array[first:last] for name, array in rows.items()}
                written = {
                    name: np.empty((last - first, self.classes), self._stored(array))
                    for name, array in derivatives.items()
                }
                block = _isa.core.SoftmaxRun(
                    self.kernel, scale, logits, **inputs, **losses, **written
                )
                total = block(0, last - first, total)
                for name, array in derivatives.items():
                    _layout.scatter(written[name], array, self.axes, first, last)
                del logits, inputs, written, block  # before the next ones are made, not after
            return total

        return work
