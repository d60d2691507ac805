"""The operators ``torch.ops.fastce.*``, and the autograd functions that call them.

An operator takes ``logits, target, where``, other tensors, ``options`` and ``with_grad``. It
returns the loss in the type that it is computed in and, from the same pass, the gradient, which is
empty without ``with_grad``. Options that are not tensors are passed in one string, such as
"gamma=2.0, ignore_index=-100, reduction='mean'": each argument of an operator takes half a
microsecond.

torch.compile uses the derivatives that the operators have themselves. Elsewhere, two autograd
functions replace these: the one for eager calls is fast and does not keep the gradient; the other
has the form that the transforms of torch.func require.
"""

# If torch is not installed, its classes have no type:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from fastce import losses
from fastce._call import checks, checks_bridges
from fastce._call.layout import Array

Function = Callable[..., Any]

# Modules without type annotations.
forward_ad: Any = torch.autograd.forward_ad
jit: Any = torch.jit

# The types of logits, and the types in which their gradients are saved. The gradient of a mean over
# many float16 samples is below the type's range until a gradient scaler multiplies it.
SAVED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.bfloat16,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}

# Tensors of other classes may have no values, or may override an operator.
PLAIN = (Tensor, torch.nn.Parameter)


# Tensors as arrays --------------------------------------------------------------------------------


def _array(tensor: Tensor, name: str = "input") -> Array:
    """View an argument as an array of the same dtype, without a copy."""
    array: Array
    if tensor.dtype == torch.bfloat16:
        bits = tensor.detach().resolve_neg().view(torch.int16).numpy()
        array = bits.view(checks_bridges.bfloat16("torch"))
    else:
        try:
            array = tensor.numpy(force=True)
        except TypeError:  # NumPy has no such type
            checks_bridges.host_type(name, "of a type that NumPy has", tensor.dtype)
    return array


def _new_grad(logits: Tensor, array: Array) -> tuple[Tensor, Array]:
    """Return memory for the gradient of logits, which ``array`` views: as a tensor and as an array.

    The memory is NumPy's if possible. NumPy asks the system for large pages, without which the page
    faults of a large array take longer than the loss.
    """
    if not logits.is_contiguous():
        grad = torch.empty_like(logits, dtype=SAVED[logits.dtype])
        return grad, _array(grad)
    array = np.empty(array.shape, np.float32 if logits.dtype == torch.float16 else array.dtype)
    if logits.dtype == torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16), array
    return torch.from_numpy(array), array


def _new_losses(logits: Tensor) -> Tensor:
    """Return memory for the losses of elements, in the memory order that torch gives results."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.empty_like(logits, dtype=dtype)


# The operators ------------------------------------------------------------------------------------


def _operator(name: str, cls: Any, tensors: str, others: str) -> Callable[..., Tensor]:
    """Register an operator with torch, and return the function that calls it.

    ``tensors`` and ``others`` name its options. A weight per element belongs to the call, and all
    other options belong to the loss.
    """
    rows = name.startswith("softmax")
    names = ["input", "target", "where", *tensors.split()]
    attributes = [key for key in names[3:] if rows or key != "weight"]
    keys = [*attributes, *others.split(), *(["axis"] if rows else [])]

    @lru_cache(maxsize=64)
    def loss_of(*values: Any) -> Any:
        return cls(**dict(zip(keys, values, strict=True)))

    def evaluate(
        logits: Tensor, target: Tensor, where: Any, *options: Any
    ) -> tuple[Tensor, Tensor]:
        *given, values, with_grad = options
        call = {} if where is None else {"where": _array(where, "where")}
        if len(attributes) < len(given):
            _add_weight(call, given.pop(0), logits, values[-1])
        make: Any = loss_of
        for position, value in enumerate(given):
            if value is not None:  # an array may change, so its loss is not cached
                given[position] = _array(value, attributes[position])
                make = loss_of.__wrapped__
        if values[-1] == "none" and not rows and not logits.is_contiguous():
            call["loss_out"] = _array(_new_losses(logits))
        axis = (1 if logits.ndim > 1 else 0,) if rows else ()
        loss = make(*given, *values, *axis)
        z, y = _array(logits), _array(target, "target")
        try:
            if with_grad:
                grad, out = _new_grad(logits, z)
                value, _ = loss.value_and_grad(z, y, out=out, **call)
            else:
                grad = logits.new_empty(0)
                value = loss(z, y, **call)
        except (TypeError, ValueError) as error:
            if "sample_weight" in call:
                error.args = (str(error).replace("sample_weight", "weight"),)
            raise
        if type(value) is float:
            with np.errstate(over="ignore"):  # it may be beyond the range of float32
                value = np.array(value, np.float64 if logits.dtype == torch.float64 else np.float32)
        return torch.from_numpy(value), grad

    def compute(*inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, text, with_grad = inputs
        return evaluate(*tensors, _values(text), with_grad)

    def fake(logits: Tensor, target: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        *_, text, with_grad = others
        loss = _new_losses(logits)
        if _values(text)[-1] != "none":
            loss = loss.new_empty(())
        elif rows:
            shape = list(logits.shape)
            del shape[min(1, len(shape) - 1)]
            loss = loss.new_empty(shape)
        if not with_grad:
            return loss, logits.new_empty(0)
        return loss, torch.empty_like(logits, dtype=SAVED[logits.dtype])

    qualified = f"fastce::{name}"
    schema = "".join(f"Tensor? {key}, " for key in names[2:]) + "str options, bool with_grad"
    torch.library.define(
        qualified,
        f"(Tensor logits, Tensor target, {schema}) -> (Tensor, Tensor)",
        tags=torch.Tag.pt2_compliant_tag,
    )
    torch.library.impl(qualified, "CPU", compute)
    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, _backward, setup_context=_save)
    operator = getattr(torch.ops.fastce, name).default
    count = len(names)
    eager = _eager(qualified, count)
    transformable = _transformable(qualified, operator, names)

    def apply(*options: Any) -> Tensor:
        """Return the loss, given the tensors and then the other options in their order."""
        inputs, values = options[:count], options[count:]
        is_plain = _check_tensors(names, inputs)
        logits: Tensor = inputs[0]
        is_compiling = torch.compiler.is_compiling()
        if is_compiling and forward_ad.unpack_dual(logits).tangent is not None:
            raise RuntimeError(f"{qualified} has no derivative in forward mode")
        is_traced = jit.is_tracing()  # torch traces again without gradients, to compare
        with_grad = logits.requires_grad and (is_traced or torch.is_grad_enabled())
        # Under autocast, torch's losses convert 16-bit logits to float32.
        autocast = logits.dtype.itemsize == 2 and torch.is_autocast_enabled("cpu")
        dtype = torch.float32 if autocast else logits.dtype
        way: Any = evaluate
        given: Any = values
        if is_compiling or is_traced or not is_plain:
            way, given = operator, _text(others, values)
        loss: Tensor | None
        if is_compiling or (is_traced and not with_grad):
            loss, _ = operator(*inputs, given, with_grad)
        else:
            try:
                loss = eager((way, dtype, given, with_grad), *inputs)
            except RuntimeError:
                # In a transform, torch rejects a function of this kind before it calls it. Any
                # other error will be raised again.
                loss = None
        if loss is None:
            loss, _ = transformable(*inputs, _text(others, values), with_grad)
        return loss if loss.dtype == dtype else loss.to(dtype)

    return apply


def number(name: str, value: Any) -> float:
    """Return an option as a float, whose value the loss will check."""
    return value if type(value) is float else checks.number(name, value)


def _text(names: str, values: tuple[Any, ...]) -> str:
    """Return options in the form that an operator takes."""
    return ", ".join([f"{k}={v!r}" for k, v in zip(names.split(), values, strict=True)])


@lru_cache(maxsize=64)
def _values(text: str) -> tuple[Any, ...]:
    """Return the values of the options named in a string."""
    return tuple(_value(option.split("=")[1]) for option in text.split(", "))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except ValueError:  # inf or nan, which the loss will reject
        return float(text)


def _add_weight(
    call: dict[str, Any], weight: Tensor | None, logits: Tensor, reduction: str
) -> None:
    """Add element weights to the arguments of a call."""
    if weight is None:
        return
    call["sample_weight"] = _array(weight, "weight")
    if reduction == "mean":
        # torch's mean divides by the number of elements, not by the sum of the weights.
        mask = checks.where(call.get("where"), logits.shape)
        call["normalizer"] = (logits.numel() if mask is None else np.count_nonzero(mask)) or None


def _check_tensors(names: list[str], inputs: tuple[Any, ...]) -> bool:
    """Check the tensors among the arguments; return whether all are plain tensors with values."""
    logits = inputs[0]
    wants_grad = torch.is_grad_enabled()
    is_plain = True
    for name, tensor in zip(names, inputs, strict=False):
        if type(tensor) not in PLAIN:
            if tensor is None and name not in ("input", "target"):
                continue
            if not isinstance(tensor, Tensor):
                checks_bridges.host_type(name, "a torch tensor", type(tensor).__name__)
            is_plain = False
        if not tensor.is_cpu:
            # If one argument is a meta tensor, torch would run the operator for meta tensors.
            if not (tensor.is_meta and logits.is_meta):
                got = f"one on {tensor.device}"
                checks_bridges.host_argument(name, "a tensor on the CPU", got)
            is_plain = False
        if tensor.layout is not torch.strided or tensor.is_nested:
            got = "a nested one" if tensor.is_nested else f"one of {tensor.layout}"
            checks_bridges.host_argument(name, "a dense tensor", got)
        if wants_grad and tensor.requires_grad and tensor is not logits:
            _refuse_grad(name)
    if logits.dtype not in SAVED:
        checks_bridges.host_type("input", checks.ACCEPTED_LOGITS, logits.dtype)
    return is_plain


def _refuse_grad(name: str) -> NoReturn:
    """Reject differentiation with respect to any argument except the logits."""
    checks_bridges.host_argument(name, "detached: only input has a gradient", "requires_grad=True")


# Derivatives --------------------------------------------------------------------------------------


def _eager(name: str, count: int) -> Function:
    """Return the autograd function of eager calls, whose only result is the loss.

    It takes (the function to compute with, the loss's dtype, options, with_grad) and then
    ``count`` tensors.
    """
    refused, gradient = _without_derivative(name)

    class Loss(torch.autograd.Function):
        """The first backward pass returns the gradient; later ones compute it again.

        A gradient that was returned may have been written to in ways that torch does not see.
        """

        @staticmethod
        def forward(ctx: Any, call: tuple[Any, ...], *tensors: Any) -> Any:
            ctx.call = compute, dtype, *others = call
            loss, ctx.grad = compute(*tensors, *others)
            ctx.save_for_backward(*tensors)
            return loss if loss.dtype == dtype else loss.to(dtype)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Any:
            grad, ctx.grad = ctx.grad, None
            if grad is None:
                compute, _, *others = ctx.call
                _, grad = compute(*ctx.saved_tensors, *others)
            if torch.is_grad_enabled():
                grad = gradient(ctx.saved_tensors[0], grad, grad_output)
            else:
                grad = _product(grad, grad_output)
            return None, grad, *[None] * (count - 1)

        jvp = refused

    Loss.__qualname__ = Loss.__name__ = name.replace("::", "_")
    function: Function = Loss.apply
    return function


def _product(grad: Tensor, grad_output: Tensor) -> Tensor:
    """Multiply a gradient that nothing else refers to, in place if possible."""
    if grad_output.ndim:
        grad_output = _over_classes(grad, grad_output)
    try:
        if grad_output.ndim == 0 and grad_output.item() == 1:
            return grad
        return grad.mul_(grad_output)
    except RuntimeError:  # it has no value in a trace, and several in a vmap over the backward pass
        return grad * grad_output


def _over_classes(grad: Tensor, grad_output: Tensor) -> Tensor:
    """Return grad_output with as many axes as the gradient."""
    if grad_output.ndim == 0:  # as a number, it would stop a vmap over an empty batch
        return grad_output.reshape((1,) * grad.ndim)
    return grad_output if grad_output.ndim == grad.ndim else grad_output.unsqueeze(1)


def _without_derivative(name: str) -> tuple[Any, Function]:
    """Return a function that rejects forward mode, and a gradient without a derivative.

    Transforms of torch.func always make a graph of the backward pass, so it cannot refuse to be
    part of one. Instead, a node that depends on the logits rejects its own backward pass.
    """

    class Gradient(torch.autograd.Function):
        """The saved gradient times grad_output."""

        generate_vmap_rule = True

        @staticmethod
        def forward(logits: Tensor, grad: Tensor, grad_output: Tensor) -> Tensor:
            return (grad * _over_classes(grad, grad_output)).to(logits.dtype)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            raise RuntimeError(f"{name} has no second derivative")

        jvp = backward

    def refused(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(f"{name} has no derivative in forward mode")

    return staticmethod(refused), Gradient.apply


def _transformable(name: str, operator: Function, names: list[str]) -> Function:
    """Return an operator as an autograd function for the transforms of torch.func."""
    refused, gradient = _without_derivative(name)

    class Loss(torch.autograd.Function):
        """The loss, and the gradient to save; a vmap makes one call after another."""

        @staticmethod
        def forward(*inputs: Any) -> Any:
            return operator(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
            for name, needed in zip(names[1:], ctx.needs_input_grad[1:], strict=False):
                if needed:
                    _refuse_grad(name)
            _save(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor, _: Any) -> Any:
            return gradient(*ctx.saved_tensors, grad_output), *[None] * ctx.others

        jvp = refused

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
            # A tensor that a transform wraps may not report that it requires a gradient.
            *values, with_grad = inputs
            with_grad = with_grad or (torch.is_grad_enabled() and values[0].requires_grad)
            size = info.batch_size
            columns = [  # for an empty batch, one call with zeros gives the shapes
                [value] * max(size, 1) if axis is None else value.unbind(axis) or [value.sum(axis)]
                for value, axis in zip(values, in_dims[:-1], strict=True)
            ]
            rows = zip(*columns, strict=True)
            results = [apply(*arguments, with_grad) for arguments in rows]
            return tuple(torch.stack(part)[:size] for part in zip(*results, strict=True)), (0, 0)

    apply: Function = Loss.apply
    return apply


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0], output[1])
    ctx.with_grad = inputs[-1]
    ctx.others = len(inputs) - 1


def _backward(ctx: Any, grad_output: Tensor, _: Any) -> Any:
    """Return the gradients of the operator itself, which torch.compile puts into its graph."""
    logits, grad = ctx.saved_tensors
    if not ctx.with_grad:  # as in a vmap in a graph, which hides that its logits require one
        raise RuntimeError("the loss was computed without the gradient that is now wanted")
    grad = (grad * _over_classes(grad, grad_output)).to(logits.dtype)
    return grad, *[None] * ctx.others


softmax_cross_entropy = _operator(
    "softmax_cross_entropy",
    losses.SoftmaxCrossEntropy,
    "weight",
    "ignore_index label_smoothing z_loss logit_scale softcap reduction",
)
softmax_focal_loss = _operator(
    "softmax_focal_loss", losses.SoftmaxFocalLoss, "alpha", "gamma ignore_index reduction"
)
softmax_kl_divergence = _operator(
    "softmax_kl_divergence", losses.SoftmaxKLDivergence, "", "temperature reduction"
)
bce_with_logits = _operator(
    "bce_with_logits", losses.BCEWithLogits, "weight pos_weight", "reduction"
)
sigmoid_focal_loss = _operator(
    "sigmoid_focal_loss", losses.SigmoidFocalLoss, "alpha", "gamma label_smoothing reduction"
)
