"""The operators ``torch.ops.fastce.*``: a loss and, in the same pass, the gradient to save.

An operator takes ``logits, target``, its options, ``reduction``, ``dtype`` (the loss's) and
``with_grad``, and returns the loss and the gradient, which is empty without ``with_grad``. The
backward pass multiplies the gradient by ``grad_output``.

A plain call on plain tensors goes past torch's dispatcher to the same functions: what an operator
computes, saves, and does with it in the backward pass. Forward and backward of 64×10 logits in
float32 take 3 times as long as torch's own loss through the dispatcher, and 1.4 times past it.

Transforms of torch.func refuse the derivative of a custom operator. They get an autograd function
in the form that they ask for, which calls the operator.
"""

# Where torch is not installed, its classes have no type:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastce import _checks, _checks_bridges, losses

Array = npt.NDArray[Any]

# Bytes from which NumPy asks for large pages. Below, torch's own memory is quicker to have: a batch
# of 64×10 takes 60 microseconds, not 65.
LARGE_PAGES = 1 << 22


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
    bits: Array = tensor.detach().resolve_neg().view(torch.int16).numpy()
    return bits.view(ml_dtypes.bfloat16)


# The operators ------------------------------------------------------------------------------------


class Operator(NamedTuple):
    """An operator, and the ways past the dispatcher to what it does."""

    through_dispatcher: Callable[..., tuple[Tensor, Tensor]]
    compute: Callable[..., tuple[Tensor, Tensor]]  # records nothing for a backward pass
    differentiable: Callable[..., Tensor]  # returns the loss alone
    transformable: Callable[..., tuple[Tensor, Tensor]]  # by torch.func
    argument_types: frozenset[tuple[type, ...]]  # of plain arguments up to the reduction


# The types that a schema declares, as a plain call has them.
_PLAIN = {"Tensor": Tensor, "int": int, "float": float, "str": str}


def _operator(name: str, cls: Any, options: str) -> Operator:
    """Register an operator with torch, and return it: ``options`` as its schema declares them."""
    rows = name.startswith("softmax")
    names = [*(option.split()[-1] for option in options.split(", ")), "reduction"]
    declared = f"Tensor logits, Tensor target, {options}, str reduction"

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

    def save(ctx: Any, inputs: tuple[Any, ...], *tensors: Tensor) -> None:
        logits, *_, reduction, _, with_grad = inputs
        ctx.save_for_backward(*tensors)
        ctx.other_inputs = len(inputs) - 1
        ctx.with_grad = with_grad
        ctx.is_scalar = reduction != "none"
        ctx.dtype = logits.dtype
        ctx.class_axis = _class_axis(logits) if rows else None

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # nobody needs zeros for the second output
        save(ctx, inputs, output[1])

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        loss, grad = compute(*inputs)
        save(ctx, inputs, grad)
        return loss

    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
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
        schema=f"({declared}, ScalarType dtype, bool with_grad) -> (Tensor, Tensor)",
    )
    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=setup_context)
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(cls.__name__, (torch.autograd.Function,), methods)
    types = _argument_types(declared)

    def compute_plain(*inputs: Any) -> tuple[Tensor, Tensor]:
        return (compute if _is_plain(inputs[:-2], types) else operator)(*inputs)

    transformable = _transformable(name, compute_plain, save)
    return Operator(operator, compute, function.apply, transformable, types)


def _transformable(
    name: str,
    compute: Callable[..., tuple[Tensor, Tensor]],
    save: Callable[..., None],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return an operator as an autograd function for the transforms of torch.func.

    They always make a graph of the backward pass, so that it cannot refuse to be in one. A node
    that depends on the logits refuses its own backward pass instead.
    """

    class Gradient(torch.autograd.Function):
        """The saved gradient times grad_output."""

        generate_vmap_rule = True

        @staticmethod
        def forward(logits: Tensor, grad: Tensor, grad_output: Tensor) -> Tensor:
            return (grad * grad_output).to(logits.dtype)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            raise RuntimeError(f"fastce::{name} has no second derivative")

        jvp = backward

    gradient: Callable[..., Tensor] = Gradient.apply

    class Loss(torch.autograd.Function):
        """The loss, and the gradient to save; a vmap takes one call after another."""

        @staticmethod
        def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
            return compute(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
            for position, needed in enumerate(ctx.needs_input_grad):
                if needed and position:
                    _refuse_grad(position == 1)
            ctx.mark_non_differentiable(output[1])
            save(ctx, inputs, inputs[0], output[1])

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
            logits, grad = ctx.saved_tensors
            if not ctx.is_scalar and ctx.class_axis is not None:
                grad_output = grad_output.unsqueeze(ctx.class_axis)
            return gradient(logits, grad, grad_output), *[None] * ctx.other_inputs

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            raise RuntimeError(f"fastce::{name} has no derivative in forward mode")

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
            is_recorded = inputs[0].requires_grad or torch._C._are_functorch_transforms_active()
            function = loss if is_recorded else compute
            size = info.batch_size
            columns = [  # of an empty batch, one call with zeros tells the shapes
                [value] * max(size, 1) if axis is None else value.unbind(axis) or [value.sum(axis)]
                for value, axis in zip(inputs, in_dims, strict=True)
            ]
            results = [function(*arguments) for arguments in zip(*columns, strict=True)]
            return tuple(torch.stack(part)[:size] for part in zip(*results, strict=True)), (0, 0)

    loss: Callable[..., tuple[Tensor, Tensor]] = Loss.apply
    return loss


def _argument_types(declared: str) -> frozenset[tuple[type, ...]]:
    """Return the types that arguments declared like "Tensor? weight, int ignore_index" may have."""
    types = []
    for argument in declared.split(", "):
        name = argument.split()[0]
        plain = _PLAIN[name.removesuffix("?")]
        types.append([plain, type(None)] if name.endswith("?") else [plain])
    return frozenset(product(*types))


def _saved_dtype(logits: Tensor) -> torch.dtype:
    """Return the type to save the gradient in.

    That of a mean over many float16 samples is below the type's range, until the factor of a
    gradient scaler brings it back.
    """
    return torch.float32 if logits.dtype == torch.float16 else logits.dtype


def _empty_grad(logits: Tensor) -> Tensor:
    """Return memory for the gradient.

    NumPy's for a large array, where it can be: it asks the system for large pages, without which
    the page faults take longer than the loss.
    """
    dtype = _saved_dtype(logits)
    if logits.numel() * dtype.itemsize < LARGE_PAGES or not logits.is_contiguous():
        return torch.empty_like(logits, dtype=dtype)
    integers = {2: np.int16, 4: np.int32, 8: np.int64}[dtype.itemsize]
    return torch.from_numpy(np.empty(logits.shape, integers)).view(dtype)


def _times_grad_output(ctx: Any, grad_output: Tensor) -> Tensor:
    """Return the saved gradient times grad_output: itself, where that is 1."""
    grad: Tensor
    (grad,) = ctx.saved_tensors
    if ctx.is_scalar:
        if _has_one_value(grad_output) and grad_output.item() == 1:
            return grad.to(ctx.dtype)
    elif ctx.class_axis is not None:
        grad_output = grad_output.unsqueeze(ctx.class_axis)
    return (grad * grad_output).to(ctx.dtype)


def _has_one_value(scalar: Tensor) -> bool:
    """Whether a scalar can be read: a traced one has no value yet, one in a vmap has several."""
    functorch = torch._C._functorch
    return (
        type(scalar) is Tensor
        and scalar.is_cpu
        and not functorch.is_batchedtensor(scalar)
        and not functorch.is_legacy_batchedtensor(scalar)
    )


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


def apply(operator: Operator, input: Tensor, target: Tensor, *options: Any) -> Tensor:
    """Call an operator; ``options`` end in the reduction."""
    _checks.reduction(options[-1])
    arguments = input, target, *options
    is_plain = _is_plain(arguments, operator.argument_types)
    if not is_plain:
        _check_devices(*arguments)
    wants_grad = torch.is_grad_enabled()
    for other in arguments[1:]:
        if wants_grad and isinstance(other, Tensor) and other.requires_grad:
            _refuse_grad(other is target)
    # Under autocast torch's losses take 16-bit logits to float32. The kernels do that anyway.
    autocast = input.dtype.itemsize == 2 and torch.is_autocast_enabled("cpu")
    dtype = torch.float32 if autocast else input.dtype
    with_grad = wants_grad and input.requires_grad
    loss: Tensor
    if not is_plain and _is_transformed():  # what a transform wraps may not say what it requires
        loss, _ = operator.transformable(*arguments, dtype, wants_grad)
    elif not is_plain:
        loss, _ = operator.through_dispatcher(*arguments, dtype, with_grad)
    elif with_grad:
        loss = operator.differentiable(*arguments, dtype, with_grad)
    else:
        loss, _ = operator.compute(*arguments, dtype, with_grad)
    return loss


def _refuse_grad(is_target: bool) -> None:
    """Refuse to differentiate by a target or a weight."""
    _checks_bridges.host_argument(
        "target" if is_target else "a weight",
        "detached: only input has a gradient",
        "requires_grad=True",
    )


def _check_devices(input: Tensor, target: Tensor, *options: Any) -> None:
    # torch would run an operator for meta tensors if one argument is one: of no values.
    accepted = ("cpu",) if input.device.type == "cpu" else ("cpu", "meta")
    for name, tensor in (
        ("input", input),
        ("target", target),
        *(("a weight", option) for option in options),
    ):
        if isinstance(tensor, Tensor) and tensor.device.type not in accepted:
            _checks_bridges.host_argument(name, "a tensor on the CPU", f"one on {tensor.device}")


def _is_plain(arguments: tuple[Any, ...], types: frozenset[tuple[type, ...]]) -> bool:
    """Whether torch's dispatcher would do no more with a call than to compute it.

    It has more to do while a graph is traced, in a mode, in a transform of torch.func and in
    forward mode, and with tensors of another class, place or layout. Arguments of other types it
    converts or refuses.
    """
    return (
        not torch.compiler.is_compiling()
        and tuple(map(type, arguments)) in types
        and torch._C._get_tracing_state() is None
        and not torch._C._len_torch_function_stack()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and all(
            tensor.is_cpu and tensor.layout == torch.strided
            for tensor in arguments
            if type(tensor) is Tensor
        )
    )


def _is_transformed() -> bool:
    """Whether a call is for an autograd function that transforms of torch.func can take.

    While a graph is traced, and to be made functional, it is for the operator. In forward mode
    torch would take what the operator returns for a constant.
    """
    forward = forward_ad._current_level >= 0
    if torch.compiler.is_compiling():
        if forward:
            raise RuntimeError("fastce has no derivative in forward mode")
        return False
    functorch = torch._C._functorch
    transform = functorch.peek_interpreter_stack()
    if transform is None:
        return bool(forward)
    return bool(transform.key() != functorch.TransformType.Functionalize)
