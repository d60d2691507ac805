"""One call of a loss: check arguments, lay out arrays, spread rows over threads, reduce losses."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import _checks, _isa, _layout, _parallel

Array = npt.NDArray[Any]
Work = Callable[[int, int], float]  # does the rows [start, stop), returns the sum of their losses

VALUE, GRADIENT, HESSIAN = 1, 2, 3  # how many results: the loss, with gradient, with both

# Classes of a class axis that is not contiguous: more go through gathered blocks, because the
# kernel's scratch tile of 64 rows would outgrow the second-level cache.
PLANE_CLASSES = 1024

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
    mask = _checks.where(call.where, z.shape)
    normalizer = _checks.normalizer(call.normalizer)
    factor = _checks.grad_output(call.grad_output, shape, loss.reduction)
    inputs = [y, weight, mask, factor if isinstance(factor, np.ndarray) else None]
    outs = _checks.outputs(call.out, results - 1, z, inputs) if results > 1 else ()

    batch = Batch(
        kernel=loss.kernel(),
        logits=last_axis(z, axis),
        labels=y if is_labels else None,
        probabilities=None if is_labels else last_axis(y, axis),
        mask=None if mask is None else last_axis(mask, axis),
        sample_weight=weight,
        grad_output=factor if isinstance(factor, np.ndarray) else None,
    )
    denominator = batch.denominator(loss.reduction == "mean" and normalizer is None)
    denominator = normalizer if normalizer is not None else denominator
    arrays = [new_like(z) if array is None else array for array in outs]
    grad, hess = [last_axis(a, axis) for a in arrays] + [None] * (2 - len(arrays))
    returned = handed_back(call.out, arrays)
    scale = 1.0 if isinstance(factor, np.ndarray) else factor
    if loss.reduction != "mean":
        denominator = 1.0
    elif not denominator:
        for array in arrays:
            array[...] = 0
        return math.nan, *returned
    scale /= denominator
    factors = (scale, largest, loss.largest_factor)
    batch.real = sufficient_type(z, factors, batch.inputs["grad_output"])
    if loss.reduction == "none":
        losses: Any = np.empty(shape, batch.real)
        batch.run(scale, grad=grad, hess=hess, loss=losses)
        if classes == 0:  # only ignored rows, or probabilities of nothing
            losses[...] = 0
        return narrowed(losses, z), *returned
    return batch.run(scale, grad=grad, hess=hess) / denominator, *returned


def group_rows(classes: int) -> int:
    """Return the number of rows that a task has a multiple of."""
    return GROUP_ROWS if classes <= BLOCK_ELEMENTS // GROUP_ROWS else 1


def sum_over_rows(work: Work, rows: int, classes: int) -> float:
    """Go over all rows in tasks, and add up their losses."""
    tasks = _parallel.tasks_of(rows, classes, group_rows(classes))
    return _sum(_parallel.run(work, tasks, rows * classes))


def sum_over_elements(work: Work, count: int) -> float:
    """Go over all elements in tasks, and add up their losses."""
    tasks = _parallel.tasks_of(count, 1, _isa.core.ELEMENTS_CHUNK)
    return _sum(_parallel.run(work, tasks, count))


def first_improbable(read: Callable[[int, int], Array], count: int, step: int) -> float:
    """Return the position of the first of ``count`` numbers outside [0, 1], infinity for none.

    ``read(start, stop)`` gives a range of them, of ``step`` at most, as the kernel takes it.
    """

    def check(start: int, stop: int) -> float:
        for first in range(start, stop, step):
            position = _isa.core.first_improbable(read(first, min(first + step, stop)))
            if position >= 0:
                return float(first + position)
        return math.inf

    return min(_parallel.run(check, _parallel.tasks_of(count, 1, GROUP_ROWS), count))


def all_probable(target: Array) -> bool:
    """Return whether all numbers of a contiguous array lie in [0, 1]."""
    flat = target.reshape(-1)
    return first_improbable(lambda start, stop: flat[start:stop], flat.size, flat.size) == math.inf


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

    def denominator(self, wanted: bool) -> float:
        """Check the labels, all of them before anything is written, and add up the weights."""
        labels, weight = self.inputs["labels"], self.inputs["sample_weight"]
        if self.rows == 0:
            return 0.0
        if labels is None:
            if not wanted or weight is None:
                return float(self.rows)
            with np.errstate(over="ignore"):
                return float(weight.sum(dtype=np.float64))
        total = 0.0
        for start, (part, position) in self._label_blocks():
            if position >= 0:
                _checks.bad_label(labels, start + position, self.classes)
            total += part
        return total

    def _label_blocks(self) -> Iterator[tuple[int, tuple[float, int]]]:
        """Yield where a block of labels starts, its weight, and where its first bad label is."""
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
        if name == "probabilities":
            return self.real
        native = array.dtype.newbyteorder("=")
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
        if (
            view is not None
            and view.ndim == ndim
            and (ndim == 1 or name == "mask" or _layout.is_rows(view))
        ):
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
        matrices = [view for name, view in views.items() if view.ndim > 1 and name != "mask"]
        if all(_layout.is_rows(view) for view in matrices):
            return views
        if self.classes <= PLANE_CLASSES and all(
            _layout.is_rows(view) or _layout.is_planes(view) for view in matrices
        ):
            return views
        return None

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
        return sum_over_rows(work, self.rows, self.classes)

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


# The sigmoid family -------------------------------------------------------------------------------


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
    pos_weight = getattr(loss, "pos_weight", None)
    pos_weight = None if pos_weight is None else _checks.pos_weight(pos_weight, z.shape)
    grad_output = factor if isinstance(factor, np.ndarray) else None
    scale = 1.0 if isinstance(factor, np.ndarray) else factor
    inputs = {
        "target": y,
        "sample_weight": weight,
        "mask": mask,
        "pos_weight": pos_weight,
        "grad_output": grad_output,
    }
    outs = _checks.outputs(call.out, results - 1, z, list(inputs.values())) if results > 1 else ()
    elements = Elements(loss.kernel(), z, inputs)
    if any(array is not None for array in outs):
        elements.check_target()
    arrays = [new_like(z) if array is None else array for array in outs]
    outputs = dict(zip(("grad", "hess"), arrays, strict=False))
    returned = handed_back(call.out, arrays)
    denominator = 1.0
    if loss.reduction == "mean":
        denominator = normalizer if normalizer is not None else elements.denominator()
    if not denominator:
        elements.check_target()
        for array in arrays:
            array[...] = 0
        return math.nan, *returned
    scale /= denominator
    elements.real = sufficient_type(z, (scale, largest, loss.largest_factor), grad_output)
    if loss.reduction == "none":
        losses = new_like(z, working_type(z))
        elements.run(scale, **outputs, loss=losses)
        return losses, *returned
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

    def denominator(self) -> float:
        """Add up the weights of the elements that count."""
        weight, mask = self.inputs.get("sample_weight"), self.inputs.get("mask")
        if weight is None:
            return float(self.logits.size if mask is None else np.count_nonzero(mask))
        with np.errstate(over="ignore"):
            if mask is None:
                return float(np.sum(weight, dtype=np.float64))
            return float(np.sum(weight, dtype=np.float64, where=mask))

    def check_target(self) -> None:
        """Raise if a target is not in [0, 1], before anything is written."""
        target = self.inputs["target"]
        if target.dtype.kind == "b" or target.size == 0:
            return
        target = _layout.once(target)
        order = _layout.memory_order([target])
        view = target.transpose(order)
        # A float64 that rounds to 1 in the working precision counts as 1.
        dtype = self._type("target", target)
        read = _layout.reader(view, dtype, BLOCK_ELEMENTS)
        # Nothing is copied where the target is one contiguous axis, and 2 us a block would double
        # the time.
        step = BLOCK_ELEMENTS if _layout.line(view, dtype) is None else target.size
        position = first_improbable(read, target.size, step)
        if position < math.inf:
            at = dict(zip(order, np.unravel_index(int(position), view.shape), strict=True))
            _checks.bad_probability("target", target, tuple(at[axis] for axis in sorted(at)))

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
