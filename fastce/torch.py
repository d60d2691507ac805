"""The losses as torch has them: modules and functions with its names, for tensors on the CPU.

Each loss is a custom operator, ``torch.ops.fastce.*``, that finds value and gradient in one pass
over the logits when they require a gradient; the backward pass only multiplies. The operators work
under ``torch.compile``; where no graph is made, a call goes straight to what its operator computes.
``torch.vmap`` works, one example after another, and so does ``torch.func.grad``, though not under
``torch.compile``. Tensors are read where they lie; bfloat16 needs the package ml_dtypes.

What differs from torch: tails are exact (a confident, right prediction keeps its digits), class
weights must not be negative, targets of binary losses must lie in [0, 1], gradients go to the
logits alone, and there is no second derivative, nor one in forward mode.
"""

# Where torch is not installed, its classes have no type:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from fastce import _checks, _checks_bridges

try:
    import torch
    from torch import Tensor
    from torch.nn._reduction import legacy_get_string
except ImportError as error:
    _checks_bridges.missing_host("torch", "torch", error)

from fastce import _torch_operators as operators

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
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
) -> Tensor:
    """Return `torch.nn.functional.cross_entropy`, by `fastce.SoftmaxCrossEntropy`.

    Parameters
    ----------
    input : Tensor of shape (K,), (N, K) or (N, K, ...)
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor
        Integer labels of the shape of `input` without the class axis, or probabilities of its
        shape.
    weight : Tensor of shape (K,), optional
        Weight of each class: finite, at least 0.
    size_average, reduce : bool, optional
        Deprecated in torch, and taken with its warning: they replace `reduction`.
    ignore_index : int, default -100
        Samples with this label count nothing.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is weighted by `weight` of the labels.
    label_smoothing : float in [0, 1], default 0.0
        The share of the target that is spread evenly over the classes.

    Returns
    -------
    Tensor
        Of the dtype of `input`, as torch returns it; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `fastce.SoftmaxCrossEntropy` raises them; also where a tensor other than `input` requires
        a gradient, or is not on the CPU.

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
    if size_average is not None or reduce is not None:
        reduction = legacy_get_string(size_average, reduce)
    options = weight, ignore_index, float(label_smoothing), reduction
    return operators.apply(operators.softmax_cross_entropy, input, target, *options)


def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    *,
    alpha: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the focal loss of a softmax, by `fastce.SoftmaxFocalLoss`.

    Parameters
    ----------
    input : Tensor of shape (K,), (N, K) or (N, K, ...)
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of integers
        Labels of the shape of `input` without the class axis.
    gamma : float >= 0, default 2.0
        How little attention well predicted samples get.
    alpha : Tensor of shape (K,), optional
        Factor of each class: finite, at least 0.
    ignore_index : int, default -100
        Samples with this label count nothing.
    reduction : {"mean", "sum", "none"}, default "mean"
        What is returned.

    Returns
    -------
    Tensor
        Of the dtype of `input`; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `fastce.SoftmaxFocalLoss` raises them; also where a tensor other than `input` requires a
        gradient, or is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.softmax_focal_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    >>> round(loss.item(), 6)
    0.001804
    """
    options = float(gamma), alpha, ignore_index, reduction
    return operators.apply(operators.softmax_focal_loss, input, target, *options)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return `torch.nn.functional.binary_cross_entropy_with_logits`, by `fastce.BCEWithLogits`.

    Parameters
    ----------
    input : Tensor
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of the shape of `input`
        Numbers in [0, 1].
    weight : Tensor, optional
        Weight of each element, broadcast: finite, at least 0. As in torch the mean divides by the
        number of elements.
    size_average, reduce : bool, optional
        Deprecated in torch, and taken with its warning: they replace `reduction`.
    reduction : {"mean", "sum", "none"}, default "mean"
        What is returned.
    pos_weight : Tensor, optional
        Factor of the positive part, broadcast: finite, at least 0.

    Returns
    -------
    Tensor
        Of the dtype of `input`, as torch returns it; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError
        As `fastce.BCEWithLogits` raises them; also where a tensor other than `input` requires a
        gradient, or is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> logits = torch.tensor([0.0, 50.0], dtype=torch.float64)
    >>> fastce.torch.binary_cross_entropy_with_logits(logits, torch.ones(2), reduction="none")
    tensor([6.9315e-01, 1.9287e-22], dtype=torch.float64)
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_get_string(size_average, reduce)
    return operators.apply(operators.bce_with_logits, input, target, weight, pos_weight, reduction)


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the focal loss of independent logits, by `fastce.SigmoidFocalLoss`.

    Parameters
    ----------
    input : Tensor
        The logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of the shape of `input`
        Numbers in [0, 1].
    gamma : float >= 0, default 2.0
        How little attention well predicted elements get.
    alpha : float in [0, 1] or None, default 0.25
        Weight of the positive class; 1−alpha is that of the negative.
    label_smoothing : float in [0, 1], default 0.0
        The share of the target that is moved to 1/2.
    reduction : {"mean", "sum", "none"}, default "mean"
        What is returned. (torchvision's default is "none".)

    Returns
    -------
    Tensor
        Of the dtype of `input`; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError
        As `fastce.SigmoidFocalLoss` raises them; also where `target` requires a gradient, or a
        tensor is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.sigmoid_focal_loss(torch.tensor([2.0]), torch.tensor([1.0]), alpha=None)
    >>> round(loss.item(), 6)
    0.001804
    """
    alpha = None if alpha is None else float(alpha)
    options = float(gamma), alpha, float(label_smoothing), reduction
    return operators.apply(operators.sigmoid_focal_loss, input, target, *options)


# Modules ------------------------------------------------------------------------------------------


class _Loss(torch.nn.Module):
    """A function of this module, called with the attributes that have its options' names."""

    _function: ClassVar[Callable[..., Tensor]]
    _options: ClassVar[tuple[str, ...]]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        options = {name: getattr(self, name) for name in self._options}
        return type(self)._function(input, target, **options)


class CrossEntropyLoss(_Loss, torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, computed by `cross_entropy`: the same arguments and state.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.CrossEntropyLoss(label_smoothing=0.1)
    >>> round(loss(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 6)
    1.386294
    """

    _function = staticmethod(cross_entropy)
    _options = ("weight", "ignore_index", "reduction", "label_smoothing")


class BCEWithLogitsLoss(_Loss, torch.nn.BCEWithLogitsLoss):
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


class SoftmaxFocalLoss(_Loss):
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
        self.reduction = _checks.reduction(reduction)


class SigmoidFocalLoss(_Loss):
    """`sigmoid_focal_loss` as a module with the same options.

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

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.label_smoothing = label_smoothing
        self.reduction = _checks.reduction(reduction)
