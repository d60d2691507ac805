"""The losses as torch modules and functions, with torch's names, for tensors on the CPU.

Each loss is a custom operator, ``torch.ops.fastce.*``. If the logits require a gradient, it
computes value and gradient in one pass over the logits, and the backward pass only multiplies. The
losses work with ``torch.compile``, ``torch.func.grad`` and ``torch.vmap``, which processes one
example after another. Tensors are read in place. bfloat16 needs the package ml_dtypes.

Differences from torch:

- Losses and gradients of confident, correct predictions are accurate.
- Class weights must not be negative, and targets of binary losses must lie in [0, 1].
- Results have the dtype of the logits, even if a floating-point target has another one.
- Only the logits get a gradient. There are no second derivatives, and there is no forward mode.
"""

# If torch is not installed, its classes have no type:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import Any, SupportsFloat

from fastce._call import checks, checks_bridges

try:
    import torch
    from torch import Tensor
except ImportError as error:
    checks_bridges.missing_host("torch", "torch", error)

from fastce.torch import _operators as operators
from fastce.torch._divergence import KLDivergenceLoss, kl_divergence
from fastce.torch._module import LossModule

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "KLDivergenceLoss",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "kl_divergence",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
]


# Functions ----------------------------------------------------------------------------------------


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    where: Tensor | None = None,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Compute `torch.nn.functional.cross_entropy` with `fastce.SoftmaxCrossEntropy`.

    Parameters
    ----------
    input : Tensor of shape (K,), (N, K) or (N, K, ...)
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor
        Integer labels with the shape of `input` without the class axis, or probabilities with the
        shape of `input`.
    weight : Tensor of shape (K,), optional
        Weight of each class: finite, at least 0.
    size_average, reduce : bool, optional
        Deprecated, as in torch: replaces `reduction`, with torch's warning.
    ignore_index : int, default -100
        Samples with this label are ignored. As in torch, it must be negative if the target holds
        probabilities.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is weighted by the `weight` of the labels.
    label_smoothing : float in [0, 1], default 0.0
        The share of the target that is spread evenly over all classes.
    where : Tensor of bool, optional
        Which classes count; broadcasts to `input`. A masked class has probability 0.
    z_loss : float, default 0.0
        The factor of the penalty lse², which keeps the scale of the logits from drifting.
    logit_scale : float, default 1.0
        Factor of the logits; the reciprocal of a temperature.
    softcap : float > 0, optional
        Bound of the scaled logits, which become softcap·tanh(z/softcap).

    Returns
    -------
    Tensor
        With the dtype of `input`, whatever that of `target`; float32 for 16-bit logits under
        autocast.

    Raises
    ------
    TypeError, ValueError, IndexError
        As raised by `fastce.SoftmaxCrossEntropy`; also if a tensor other than `input` requires a
        gradient, or a tensor is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
    >>> loss = fastce.torch.cross_entropy(logits, torch.tensor([0]))
    >>> loss.backward()
    >>> print(f"{loss.item():.7g} {logits.grad[0, 1].item():.7g}")
    2.061154e-09 2.061154e-09
    """
    ignore_index = checks.integer("ignore_index", ignore_index)
    if ignore_index >= 0:
        _check_labels(input, target, ignore_index)
    return operators.softmax_cross_entropy(
        input,
        target,
        where,
        weight,
        ignore_index,
        operators.number("label_smoothing", label_smoothing),
        operators.number("z_loss", z_loss),
        operators.number("logit_scale", logit_scale),
        None if softcap is None else operators.number("softcap", softcap),
        _reduction(reduction, size_average, reduce),
    )


def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    *,
    alpha: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Tensor | None = None,
) -> Tensor:
    """Compute softmax focal loss with `fastce.SoftmaxFocalLoss`.

    Parameters
    ----------
    input : Tensor of shape (K,), (N, K) or (N, K, ...)
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of integers
        Labels with the shape of `input` without the class axis.
    gamma : float >= 0, default 2.0
        The larger it is, the less a well-predicted sample counts.
    alpha : Tensor of shape (K,), optional
        Factor of each class: finite, at least 0.
    ignore_index : int, default -100
        Samples with this label are ignored.
    reduction : {"mean", "sum", "none"}, default "mean"
        How to combine the losses of the samples.
    where : Tensor of bool, optional
        Which classes count; broadcasts to `input`. A masked class has probability 0.

    Returns
    -------
    Tensor
        With the dtype of `input`; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError, IndexError
        As raised by `fastce.SoftmaxFocalLoss`; also if a tensor other than `input` requires a
        gradient, or a tensor is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.softmax_focal_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    >>> round(loss.item(), 6)
    0.001804
    """
    return operators.softmax_focal_loss(
        input,
        target,
        where,
        alpha,
        operators.number("gamma", gamma),
        checks.integer("ignore_index", ignore_index),
        _reduction(reduction),
    )


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """Compute `torch.nn.functional.binary_cross_entropy_with_logits` with `fastce.BCEWithLogits`.

    Parameters
    ----------
    input : Tensor
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of the shape of `input`
        Numbers in [0, 1].
    weight : Tensor, optional
        Weight of each element; broadcasts. Finite, of either sign. As in torch, the mean divides by
        the number of elements, not by the sum of the weights.
    size_average, reduce : bool, optional
        Deprecated, as in torch: replaces `reduction`, with torch's warning.
    reduction : {"mean", "sum", "none"}, default "mean"
        How to combine the losses of the elements.
    pos_weight : Tensor, optional
        Factor of the positive part; broadcasts. Finite, at least 0.
    where : Tensor of bool, optional
        Which elements count; broadcasts to `input`. The mean divides by their number.

    Returns
    -------
    Tensor
        With the dtype of `input`, whatever that of `target`; float32 for 16-bit logits under
        autocast.

    Raises
    ------
    TypeError, ValueError
        As raised by `fastce.BCEWithLogits`; also if a tensor other than `input` requires a
        gradient, or a tensor is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> logits = torch.tensor([0.0, 50.0], dtype=torch.float64)
    >>> fastce.torch.binary_cross_entropy_with_logits(logits, torch.ones(2), reduction="none")
    tensor([6.9315e-01, 1.9287e-22], dtype=torch.float64)
    """
    reduction = _reduction(reduction, size_average, reduce)
    return operators.bce_with_logits(input, target, where, weight, pos_weight, reduction)


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | Tensor | None = 0.25,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    where: Tensor | None = None,
) -> Tensor:
    """Compute sigmoid focal loss with `fastce.SigmoidFocalLoss`.

    Parameters
    ----------
    input : Tensor
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of the shape of `input`
        Numbers in [0, 1].
    gamma : float >= 0, default 2.0
        The larger it is, the less a well-predicted element counts.
    alpha : float or Tensor in [0, 1], or None, default 0.25
        Weight of positives; negatives have 1−alpha. A tensor broadcasts to `input`. None means no
        weights.
    label_smoothing : float in [0, 1], default 0.0
        The fraction by which targets move towards 1/2.
    reduction : {"mean", "sum", "none"}, default "mean"
        How to combine the losses of the elements. The default of torchvision is "none".
    where : Tensor of bool, optional
        Which elements count; broadcasts to `input`.

    Returns
    -------
    Tensor
        With the dtype of `input`; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError
        As raised by `fastce.SigmoidFocalLoss`; also if `target` requires a gradient, or a tensor
        is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.sigmoid_focal_loss(torch.tensor([2.0]), torch.tensor([1.0]), alpha=None)
    >>> round(loss.item(), 6)
    0.001804
    """
    return operators.sigmoid_focal_loss(
        input,
        target,
        where,
        _alpha(alpha),
        operators.number("gamma", gamma),
        operators.number("label_smoothing", label_smoothing),
        _reduction(reduction),
    )


# Their arguments ----------------------------------------------------------------------------------


def _reduction(value: str, size_average: bool | None = None, reduce: bool | None = None) -> str:
    """Return the reduction; torch's deprecated arguments override it."""
    if size_average is not None or reduce is not None:
        value = torch.nn.L1Loss(size_average, reduce).reduction
    return checks.reduction(value)


def _check_labels(input: Any, target: Any, ignore_index: int) -> None:
    """Reject a nonnegative ignore_index if the target holds probabilities, as torch does."""
    tensors = isinstance(input, Tensor) and isinstance(target, Tensor)
    if tensors and target.ndim == input.ndim:
        accepted = "negative with a target of probabilities"
        checks_bridges.host_argument("ignore_index", accepted, ignore_index)


def _alpha(value: Any) -> Tensor | None:
    """Return the alpha of a sigmoid loss as a tensor."""
    if value is None or isinstance(value, Tensor):
        return value
    if not isinstance(value, SupportsFloat):
        checks_bridges.host_type("alpha", "a number, a torch tensor or None", type(value).__name__)
    number = checks.number("alpha", value)
    return torch.full((), number, dtype=torch.float64, device="cpu")


# Modules ------------------------------------------------------------------------------------------


class CrossEntropyLoss(LossModule, torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, computed by `cross_entropy`, with the same arguments and state.

    It also takes `z_loss`, `logit_scale` and `softcap` as keyword arguments.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.CrossEntropyLoss(label_smoothing=0.1)
    >>> round(loss(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 6)
    1.386294
    """

    _function = staticmethod(cross_entropy)
    _options = (
        *("weight", "ignore_index", "reduction", "label_smoothing"),
        *("z_loss", "logit_scale", "softcap"),
    )

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        logit_scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.logit_scale = logit_scale
        self.softcap = softcap


class BCEWithLogitsLoss(LossModule, torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`, computed by `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    >>> round(loss(torch.zeros(2), torch.tensor([1.0, 0.0])).item(), 6)
    1.039721
    """

    _function = staticmethod(binary_cross_entropy_with_logits)
    _options = ("weight", "reduction", "pos_weight")


class SoftmaxFocalLoss(LossModule):
    """`softmax_focal_loss` as a module with the same options; alpha is a buffer.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.SoftmaxFocalLoss(gamma=2.0)
    >>> round(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 6)
    0.001804
    """

    _function = staticmethod(softmax_focal_loss)
    _options = ("gamma", "alpha", "ignore_index", "reduction")

    alpha: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("alpha", alpha)
        self.ignore_index = ignore_index
        self.reduction = checks.reduction(reduction)


class SigmoidFocalLoss(LossModule):
    """`sigmoid_focal_loss` as a module with the same options; a tensor alpha is a buffer.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.SigmoidFocalLoss(alpha=None)
    >>> round(loss(torch.tensor([2.0]), torch.tensor([1.0])).item(), 6)
    0.001804
    """

    _function = staticmethod(sigmoid_focal_loss)
    _options = ("gamma", "alpha", "label_smoothing", "reduction")

    alpha: float | Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Tensor | None = 0.25,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.gamma = gamma
        if isinstance(alpha, Tensor):
            self.register_buffer("alpha", alpha)
        else:
            _alpha(alpha)
            self.alpha = alpha
        self.label_smoothing = label_smoothing
        self.reduction = checks.reduction(reduction)
