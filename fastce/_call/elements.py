"""Calls of sigmoid losses that the compiled entry does not accept: check, convert, call again."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fastce._call import checks, layout, variants
from fastce._call.arguments import Call, handed_back, native_float, working_type
from fastce._call.layout import Array, new_like


def checked_elements(
    loss: Any,
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    sample_weight: Any = None,
    where: Any = None,
) -> tuple[Array, Array, Array | None, Array | None, list[Array | None]]:
    """Check the arguments of a sigmoid loss that its NumPy, JAX and Dask versions share.

    Returns them, and the loss's factors of the positive and the negative part of each element.
    """
    z = checks.logits(logits)
    y = checks.sigmoid_target(target, z)
    factors = [
        checks.element_weight(loss.element_weight_name, array, z.shape)
        for array in loss.element_weights
    ]
    weight = checks.sample_weight(sample_weight, z.shape)
    return z, y, weight, checks.where(where, z.shape), factors


def sigmoid_family(
    loss: Any, results: int, logits: npt.ArrayLike, target: npt.ArrayLike, call: Call
) -> tuple[Any, ...]:
    """Evaluate a loss of independent elements, or raise."""
    z, y, weight, mask, of_elements = checked_elements(
        loss, logits, target, call.sample_weight, call.where
    )
    normalizer = checks.normalizer(call.normalizer)
    factor = checks.grad_output(call.grad_output, z.shape, loss.reduction)
    inputs = [y, weight, mask, factor if isinstance(factor, np.ndarray) else None, *of_elements]
    outs = checks.outputs(call.out, results - 1, z, inputs) if results > 1 else ()
    own_losses = checks.loss_output(
        call.loss_out, loss.reduction, z.shape, working_type(z), [z, *inputs, *outs]
    )
    inputs[0] = native_float(y)
    fresh = own_losses is None and all(array is None for array in outs)
    arrays = [new_like(z) if array is None else array for array in outs]
    losses = own_losses
    if loss.reduction == "none" and losses is None:
        losses = new_like(z, working_type(z))

    names = ("logits", "target", "weight", "mask", "factor", "positive", "negative", "loss")
    given = dict(zip((*names, "grad", "hess"), [z, *inputs, losses, *arrays], strict=False))
    views: dict[str, Any] = dict.fromkeys(given)
    views.update(layout.forwards({k: a for k, a in given.items() if a is not None}))
    result = loss.kernel().evaluate(
        results,
        views["logits"],
        views["target"],
        views["weight"],
        views["mask"],
        normalizer,
        native_float(factor if views["factor"] is None else views["factor"]),
        tuple(views[name] for name in ("grad", "hess")[: results - 1]) if arrays else None,
        views["loss"],
        element_weights=(views["positive"], views["negative"]),
        checked=True,
        fresh=fresh,
    )
    if result is None:
        _raise(z, y, weight, mask)
    value = (result if results == 1 else result[0]) if losses is None else losses
    if own_losses is not None:
        value = call.loss_out
    return value, *handed_back(call.out, arrays)


def _raise(logits: Array, target: Array, weight: Array | None, mask: Array | None) -> None:
    """Raise the error for invalid numbers that the kernels have found."""
    is_double = logits.dtype.itemsize == 8
    # A bool is never out of range, so a broadcast array need not be searched.
    if target.dtype.kind == "b":
        position = -1
    else:
        position = variants.core.first_out_of_range(target, 1.0, weight, mask, is_double)
    if position >= 0:
        checks.bad_probability("target", target, np.unravel_index(position, target.shape))
    raise RuntimeError("an argument was changed by another thread during the call")
