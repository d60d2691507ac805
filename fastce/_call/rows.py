"""Calls of softmax losses that the compiled entry does not accept: check, convert, call again."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce._call import checks, checks_softmax
from fastce._call.arguments import Call, handed_back, native_float, working_type
from fastce._call.layout import Array


class RowArguments(NamedTuple):
    """The arguments of a softmax loss, checked."""

    logits: Array
    axis: int
    shape: tuple[int, ...]  # of the rows: that of the logits without the class axis
    target: Array
    has_labels: bool
    sample_weight: Array | None
    where: Array | None


def checked_rows(
    loss: Any,
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    sample_weight: Any = None,
    where: Any = None,
    *,
    only_labels: bool = False,
) -> RowArguments:
    """Check the arguments of a softmax loss that its NumPy, JAX and Dask versions share."""
    z = checks.logits(logits)
    axis = checks.class_axis(z, loss.axis)
    y, has_labels = checks_softmax.target_of_rows(loss, target, z, axis, only_labels=only_labels)
    checks.weights_fit(loss.class_weight_name, loss.class_weight, z.shape[axis])
    shape = z.shape[:axis] + z.shape[axis + 1 :]
    weight = checks.sample_weight(sample_weight, shape)
    mask = checks.where(where, z.shape, shape)
    return RowArguments(z, axis, shape, y, has_labels, weight, mask)


def softmax_family(
    loss: Any, results: int, logits: npt.ArrayLike, target: npt.ArrayLike, call: Call
) -> tuple[Any, ...]:
    """Evaluate a loss whose samples are rows, with its classes along ``loss.axis``, or raise."""
    z, _, shape, y, _, weight, mask = checked_rows(
        loss, logits, target, call.sample_weight, call.where
    )
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
