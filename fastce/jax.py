"""The losses as JAX functions on the CPU: under ``jit``, ``grad``, ``value_and_grad`` and ``vmap``.

The value and its gradient, where one is asked for, come from one pass over the logits. The kernels
read JAX's arrays where they lie, and write the results where JAX wants them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fastce import _checks, _checks_bridges
from fastce._loss import Array, Loss

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    _checks_bridges.missing_host("jax", "jax", error)

from fastce import _jax_call

__all__ = ["function"]


def function(loss: Loss) -> Callable[..., Any]:
    """Return a loss as a JAX function ``f(logits, target, sample_weight=None)``.

    It is differentiable, once, in its first argument; target and weights count as constants. Only
    arrays on the CPU are supported. Under ``vmap`` the kernels run once for each element of the
    mapped axis: ``reduction="none"`` on the whole batch is faster.

    Parameters
    ----------
    loss : SoftmaxCrossEntropy, SoftmaxFocalLoss, BCEWithLogits or SigmoidFocalLoss
        With its options; the reduction is part of it.

    Returns
    -------
    callable
        What it takes is what ``loss(logits, target, sample_weight=...)`` takes. It returns an array
        of shape (), or of the losses with ``reduction="none"``: float64 for float64 logits, else
        float32. Shapes and types that do not fit raise while it is traced. Compiled code cannot
        raise: **a label that is not a class, a probability outside [0, 1] or a negative weight
        gives NaN**, as the loss and the gradient of the whole call.

    Raises
    ------
    TypeError
        `loss` is not a loss of this library.

    Examples
    --------
    >>> import jax
    >>> import fastce.jax
    >>> ce = fastce.jax.function(fastce.SoftmaxCrossEntropy())
    >>> logits = jax.numpy.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    >>> loss, grad = jax.jit(jax.value_and_grad(ce))(logits, jax.numpy.array([0, 2]))
    >>> print(f"{loss:.6f}", grad.shape)
    0.160927 (2, 3)
    >>> print(ce(logits, jax.numpy.array([0, 3])))
    nan
    """
    if not isinstance(loss, Loss):
        _checks_bridges.not_a_loss(loss, "one of the library's")
    evaluate = _differentiable(loss)

    def losses(logits: Any, target: Any, sample_weight: Any = None) -> Any:
        return evaluate(logits, target, sample_weight)

    losses.__doc__ = f"{loss!r} as a JAX function."
    return losses


def _differentiable(loss: Loss) -> Any:
    def value(logits: Any, target: Any, sample_weight: Any) -> Any:
        return _call(loss, False, logits, target, sample_weight)[0]

    def forward(logits: Any, target: Any, sample_weight: Any) -> tuple[Any, Any]:
        losses, grad = _call(loss, True, logits, target, sample_weight)
        # An empty array carries the logits' type to the backward pass.
        return losses, (grad, jnp.zeros(0, logits.dtype))

    def backward(saved: tuple[Any, Any], grad_output: Any) -> tuple[Any, None, None]:
        grad, like = saved
        if grad_output.ndim and hasattr(loss, "axis"):
            grad_output = jnp.expand_dims(grad_output, loss.axis)
        return (grad * grad_output).astype(like.dtype), None, None

    evaluate = jax.custom_vjp(value)
    evaluate.defvjp(forward, backward)
    return evaluate


def _call(loss: Loss, with_grad: bool, logits: Any, target: Any, sample_weight: Any) -> Any:
    """Call the kernels, which XLA knows by a number."""
    shape = _shape_of_losses(loss, logits, target, sample_weight)
    results: list[tuple[tuple[int, ...], Any]] = [
        (shape, np.float64 if logits.dtype.itemsize == 8 else np.float32)
    ]
    if with_grad:
        # The mean's gradient may be below the range of float16, until the chain rule scales it.
        small = logits.dtype == np.float16
        results.append((logits.shape, np.float32 if small else logits.dtype))
    given = (logits, target) if sample_weight is None else (logits, target, sample_weight)
    return _jax_call.call(_number(loss), logits.ndim, results, *given)


@cache
def _number(loss: Any) -> int:
    """Let XLA call the kernels: for good, once for each loss."""

    def evaluate(rank: int, arrays: list[Array], outs: list[Array]) -> None:
        """Write loss and, if there is room for it, gradient; a vmap's axes come first."""
        for i in np.ndindex(arrays[0].shape[: arrays[0].ndim - rank]):
            z, y, *weight = (array[i] for array in arrays)
            call: dict[str, Any] = {"sample_weight": weight[0]} if weight else {}
            try:
                if len(outs) > 1:
                    outs[0][i], _ = loss.value_and_grad(z, y, out=outs[1][i], **call)
                else:
                    outs[0][i] = loss(z, y, **call)
            except (IndexError, ValueError):  # shapes fit: it is what the arrays hold
                for out in outs:
                    out[i] = np.nan

    return _jax_call.register(evaluate)


def _shape_of_losses(loss: Any, logits: Any, target: Any, sample_weight: Any) -> tuple[int, ...]:
    """Check shapes and types, and return the shape of what the loss returns."""
    z = _checks.logits(_outline(logits))
    if hasattr(loss, "axis"):
        axis = _checks.class_axis(z, loss.axis)
        _checks.softmax_target(_outline(target), z, axis, probabilities=loss.takes_probabilities)
        _checks.weights_fit(loss.class_weight_name, loss.class_weight, z.shape[axis])
        shape = z.shape[:axis] + z.shape[axis + 1 :]
    else:
        _checks.sigmoid_target(_outline(target), z)
        if getattr(loss, "pos_weight", None) is not None:
            _checks.pos_weight(loss.pos_weight, z.shape)
        shape = z.shape
    if sample_weight is not None:
        _checks.sample_weight(_outline(sample_weight), shape)
    return shape if loss.reduction == "none" else ()


def _outline(array: Any) -> Array:
    """Return zeros of an array's shape and type that take no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)
