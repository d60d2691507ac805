"""A call that the compiled entry does not take as it is: check arguments, and enter again."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce._call import checks, variants
from fastce._call.layout import Array as Array
from fastce._call.layout import last_axis as last_axis
from fastce._call.layout import new_like as new_like

VALUE, GRADIENT, HESSIAN = 1, 2, 3  # how many results: the loss, with gradient, with both


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


def checked_denominator(total: float, any_counts: bool) -> float:
    """Return what a mean divides by: NaN where no weight counts, or their sum is infinite."""
    denominator: float = variants.core.denominator_of(total, any_counts)
    return denominator


def native_float(array: Any) -> Any:
    """Return an array in a type that the kernels read: longer floats are rounded to float64."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.dtype.itemsize <= 8:
        return array
    with np.errstate(all="ignore"):
        return array.astype(np.float64)


def handed_back(out: Any, written: list[Array]) -> list[Array]:
    """Return the caller's own outputs for the views of them that are written."""
    if out is None:
        return written
    given = out if isinstance(out, tuple) else (out,)
    return [array if own is None else own for own, array in zip(given, written, strict=True)]


def softmax_family(
    loss: Any, results: int, logits: npt.ArrayLike, target: npt.ArrayLike, call: Call
) -> tuple[Any, ...]:
    """Evaluate a loss whose samples are rows, with its classes along ``loss.axis``, or raise."""
    z = checks.logits(logits)
    axis = checks.class_axis(z, loss.axis)
    y, _ = checks.softmax_target(target, z, axis, probabilities=loss.takes_probabilities)
    shape, classes = z.shape[:axis] + z.shape[axis + 1 :], z.shape[axis]
    checks.weights_fit(loss.class_weight_name, loss.class_weight, classes)
    weight = checks.sample_weight(call.sample_weight, shape)
    mask = checks.where(call.where, z.shape, shape)
    normalizer = checks.normalizer(call.normalizer)
    factor = checks.grad_output(call.grad_output, shape, loss.reduction)
    inputs = [y, weight, mask, factor if isinstance(factor, np.ndarray) else None]
    outs = checks.outputs(call.out, results - 1, z, inputs) if results > 1 else ()
    losses = checks.loss_output(
        call.loss_out, loss.reduction, shape, working_type(z), [z, *inputs, *outs]
    )
    found = loss.kernel().evaluate(
        results,
        z,
        native_float(y),
        weight,
        mask,
        normalizer,
        native_float(factor),
        outs or None,
        losses,
        checked=True,
    )
    if found is None:
        raise AssertionError("checked arguments that the kernels do not take")
    value, *arrays = (found,) if results == 1 else found
    return (value if losses is None else call.loss_out), *handed_back(call.out, arrays)
