"""The operators ``torch.ops.fastce.*``: a loss and, in the same pass, the gradient to save.

An operator takes ``logits, target``, its options, ``reduction``, ``dtype`` (the loss's) and
``with_grad``, and returns the loss and the gradient, which is empty without ``with_grad``. The
backward pass multiplies the gradient by ``grad_output``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastce import _checks, _checks_bridges, losses

Array = npt.NDArray[Any]


# Tensors as arrays --------------------------------------------------------------------------------


def _array(tensor: Tensor) -> Array:
    """View a tensor as an array of its type, without a copy."""
    if tensor.dtype != torch.bfloat16:
        array: Array = tensor.numpy(force=True)
        return array
    try:
        import ml_dtypes
    except ImportError as error:
        _checks_bridges.missing_host("ml_dtypes", "torch", error)
    bits: Array = tensor.detach().view(torch.int16).numpy()
    return bits.view(ml_dtypes.bfloat16)


# The operators ------------------------------------------------------------------------------------


def _operator(name: str, cls: Any, options: str) -> Any:
    """Register an operator with torch, and return it: ``options`` as its schema declares them."""
    rows = name.startswith("softmax")
    names = [*(option.split()[-1] for option in options.split(", ")), "reduction"]

    def compute(logits: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        *values, dtype, with_grad = arguments
        given = dict(zip(names, values, strict=True))
        if rows:
            given["axis"] = _class_axis(logits)
        call = {} if rows else _of_elements(given, logits)
        loss = _loss(cls, given)
        if not with_grad:
            value = loss(_array(logits), _array(target), **call)
            return torch.as_tensor(value, dtype=dtype), logits.new_empty(0)
        grad = _empty_grad(logits)
        value, _ = loss.value_and_grad(_array(logits), _array(target), out=_array(grad), **call)
        return torch.as_tensor(value, dtype=dtype), grad

    def fake(logits: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        *_, reduction, dtype, with_grad = arguments
        shape = list(logits.shape) if reduction == "none" else []
        if shape and rows:
            del shape[_class_axis(logits)]
        if not with_grad:
            return logits.new_empty(shape, dtype=dtype), logits.new_empty(0)
        grad = torch.empty_like(logits, dtype=_saved_dtype(logits))
        return logits.new_empty(shape, dtype=dtype), grad

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, *_, reduction, _, with_grad = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # nobody needs zeros for the second output
        ctx.save_for_backward(output[1])
        ctx.other_inputs = len(inputs) - 1
        ctx.with_grad = with_grad
        ctx.is_scalar = reduction != "none"
        ctx.dtype = logits.dtype
        ctx.class_axis = _class_axis(logits) if rows else None

    def backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(f"fastce::{name} has no second derivative (create_graph=True)")
        if not ctx.with_grad:
            raise RuntimeError(f"fastce::{name} saved no gradient (with_grad=False)")
        grad = None if grad_output is None else _times_grad_output(ctx, grad_output)
        return grad, *[None] * ctx.other_inputs

    operator = torch.library.custom_op(
        f"fastce::{name}",
        compute,
        mutates_args=(),
        device_types="cpu",
        schema=f"(Tensor logits, Tensor target, {options}, str reduction, ScalarType dtype,"
        " bool with_grad) -> (Tensor, Tensor)",
    )
    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=setup_context)
    return operator


def _saved_dtype(logits: Tensor) -> torch.dtype:
    """Return the type to save the gradient in.

    That of a mean over many float16 samples is below the type's range, until the factor of a
    gradient scaler brings it back.
    """
    return torch.float32 if logits.dtype == torch.float16 else logits.dtype


def _empty_grad(logits: Tensor) -> Tensor:
    """Return memory for the gradient.

    NumPy's, where it can be: it asks the system for large pages, without which the page faults of a
    large array take longer than the loss.
    """
    dtype = _saved_dtype(logits)
    if not logits.is_contiguous():
        return torch.empty_like(logits, dtype=dtype)
    integers = {2: np.int16, 4: np.int32, 8: np.int64}[dtype.itemsize]
    return torch.from_numpy(np.empty(logits.shape, integers)).view(dtype)


def _times_grad_output(ctx: Any, grad_output: Tensor) -> Tensor:
    """Return the saved gradient times grad_output: itself, where that is 1."""
    grad: Tensor
    (grad,) = ctx.saved_tensors
    if ctx.is_scalar:
        # While a graph is being traced, grad_output has no value yet.
        if type(grad_output) is Tensor and grad_output.item() == 1:
            return grad.to(ctx.dtype)
    elif ctx.class_axis is not None:
        grad_output = grad_output.unsqueeze(ctx.class_axis)
    return (grad * grad_output).to(ctx.dtype)


def _class_axis(logits: Tensor) -> int:
    """Return torch's class axis: the second one, or the only one of a single sample."""
    return 1 if logits.ndim > 1 else 0


_cached = lru_cache(maxsize=64)(lambda cls, **options: cls(**options))


def _loss(cls: Any, options: dict[str, Any]) -> Any:
    """Return a loss, made anew only if it has weights: a tensor's values may have changed."""
    arrays = {key: _array(value) for key, value in options.items() if isinstance(value, Tensor)}
    return cls(**options | arrays) if arrays else _cached(cls, **options)


def _of_elements(options: dict[str, Any], logits: Tensor) -> dict[str, Any]:
    """Take a weight of each element from the options, and return it as the call has it."""
    weight = options.pop("weight", None)
    if weight is None:
        return {}
    # torch's mean divides by the number of elements, whatever they weigh.
    elements = logits.numel() if options["reduction"] == "mean" and logits.numel() else None
    return {"sample_weight": _array(weight), "normalizer": elements}


softmax_cross_entropy = _operator(
    "softmax_cross_entropy",
    losses.SoftmaxCrossEntropy,
    "Tensor? weight, int ignore_index, float label_smoothing",
)
softmax_focal_loss = _operator(
    "softmax_focal_loss",
    losses.SoftmaxFocalLoss,
    "float gamma, Tensor? alpha, int ignore_index",
)
bce_with_logits = _operator(
    "bce_with_logits", losses.BCEWithLogits, "Tensor? weight, Tensor? pos_weight"
)
sigmoid_focal_loss = _operator(
    "sigmoid_focal_loss",
    losses.SigmoidFocalLoss,
    "float gamma, float? alpha, float label_smoothing",
)


# Calls --------------------------------------------------------------------------------------------


def apply(operator: Any, input: Tensor, target: Tensor, *options: Any) -> Tensor:
    """Call an operator; ``options`` end in the reduction."""
    _checks.reduction(options[-1])
    if input.device.type not in ("cpu", "meta"):
        _checks_bridges.host_argument("input", "a tensor on the CPU", f"one on {input.device}")
    wants_grad = torch.is_grad_enabled()
    for name, tensor in (("target", target), *(("a weight", option) for option in options)):
        if wants_grad and isinstance(tensor, Tensor) and tensor.requires_grad:
            _checks_bridges.host_argument(
                name, "detached: only input has a gradient", "requires_grad=True"
            )
    # Under autocast torch's losses take 16-bit logits to float32. The kernels do that anyway.
    autocast = input.dtype.itemsize == 2 and torch.is_autocast_enabled("cpu")
    dtype = torch.float32 if autocast else input.dtype
    loss: Tensor = operator(input, target, *options, dtype, wants_grad and input.requires_grad)[0]
    return loss
