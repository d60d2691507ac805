"""The losses as functions: each creates its loss and returns the loss and its gradient.

A function takes the options of its class, with the same names and defaults, and the arguments of
the method `value_and_grad`. In a loop, create the loss once instead.
"""

from typing import Any

import numpy.typing as npt

from fastce._call.layout import Array
from fastce._call.loss import Value, once
from fastce.losses import (
    BCEWithLogits,
    SigmoidFocalLoss,
    SoftmaxCrossEntropy,
    SoftmaxFocalLoss,
    SoftmaxKLDivergence,
)

__all__ = [
    "bce_with_logits",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_focal_loss",
    "softmax_kl_divergence",
]


def softmax_cross_entropy(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    where: npt.ArrayLike | None = None,
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Any = None,
    loss_out: Array | None = None,
) -> tuple[Value, Array]:
    """Return the softmax cross-entropy of a batch and its gradient with respect to the logits.

    This is ``SoftmaxCrossEntropy(options).value_and_grad(logits, target, arguments)``.

    Parameters
    ----------
    logits, target : array_like
        See `SoftmaxCrossEntropy.value_and_grad`.
    weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap, reduction, axis
        See `SoftmaxCrossEntropy`.
    sample_weight, where, normalizer, grad_output, out, loss_out
        See `SoftmaxCrossEntropy.value_and_grad`.

    Returns
    -------
    loss : float or array
        In nats; an array if ``reduction="none"``.
    grad : array
        With the shape and dtype of the logits, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError, IndexError
        As raised by the class and its method.

    Examples
    --------
    Three tokens with a vocabulary of four; the last one is padding.

    >>> import numpy as np
    >>> import fastce
    >>> logits = np.array([[3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    >>> loss, grad = fastce.softmax_cross_entropy(logits, [0, 1, -100], label_smoothing=0.1)
    >>> round(loss, 6)
    0.941509
    >>> print(grad.round(3))
    [[-0.027  0.009  0.009  0.009]
     [ 0.029 -0.35   0.293  0.029]
     [ 0.     0.     0.     0.   ]]
    """
    return once(SoftmaxCrossEntropy, locals())


def softmax_focal_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    where: npt.ArrayLike | None = None,
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Any = None,
    loss_out: Array | None = None,
) -> tuple[Value, Array]:
    """Return the softmax focal loss of a batch and its gradient with respect to the logits.

    This is ``SoftmaxFocalLoss(options).value_and_grad(logits, target, arguments)``.

    Parameters
    ----------
    logits, target : array_like
        See `SoftmaxFocalLoss.value_and_grad`.
    gamma, alpha, ignore_index, reduction, axis
        See `SoftmaxFocalLoss`.
    sample_weight, where, normalizer, grad_output, out, loss_out
        See `SoftmaxFocalLoss.value_and_grad`.

    Returns
    -------
    loss : float or array
        In nats; an array if ``reduction="none"``.
    grad : array
        With the shape and dtype of the logits, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError, IndexError
        As raised by the class and its method.

    Examples
    --------
    The first row is predicted well, so that almost all of the gradient comes from the second.

    >>> import numpy as np
    >>> import fastce
    >>> logits = np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> loss, grad = fastce.softmax_focal_loss(logits, [0, 2], gamma=2.0)
    >>> round(loss, 6)
    0.481774
    >>> print(*(f"{size:.4f}" for size in abs(grad).sum(axis=1)))
    0.0001 0.8978
    """
    return once(SoftmaxFocalLoss, locals())


def softmax_kl_divergence(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    temperature: float = 1.0,
    reduction: str = "mean",
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    where: npt.ArrayLike | None = None,
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Any = None,
    loss_out: Array | None = None,
) -> tuple[Value, Array]:
    """Return the KL divergence from the softmax of a teacher's logits, and its gradient.

    This is ``SoftmaxKLDivergence(options).value_and_grad(logits, target, arguments)``.

    Parameters
    ----------
    logits : array_like
        The student's logits; see `SoftmaxKLDivergence.value_and_grad`.
    target : array_like
        The teacher's logits, of the same shape.
    temperature, reduction, axis
        See `SoftmaxKLDivergence`.
    sample_weight, where, normalizer, grad_output, out, loss_out
        See `SoftmaxKLDivergence.value_and_grad`.

    Returns
    -------
    loss : float or array
        In nats; an array if ``reduction="none"``.
    grad : array
        With the shape and dtype of the logits, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError
        As raised by the class and its method.

    Examples
    --------
    The student agrees with its teacher about the first row.

    >>> import numpy as np
    >>> import fastce
    >>> student = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> teacher = np.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    >>> loss, grad = fastce.softmax_kl_divergence(student, teacher)
    >>> round(loss, 6)
    0.389683
    >>> print(grad.round(3))
    [[ 0.     0.     0.   ]
     [-0.288  0.235  0.053]]
    """
    return once(SoftmaxKLDivergence, locals())


def bce_with_logits(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    pos_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    sample_weight: npt.ArrayLike | None = None,
    where: npt.ArrayLike | None = None,
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Any = None,
    loss_out: Array | None = None,
) -> tuple[Value, Array]:
    """Return the binary cross-entropy of a batch and its gradient with respect to the logits.

    This is ``BCEWithLogits(options).value_and_grad(logits, target, arguments)``.

    Parameters
    ----------
    logits, target : array_like
        See `BCEWithLogits.value_and_grad`.
    pos_weight, label_smoothing, reduction
        See `BCEWithLogits`.
    sample_weight, where, normalizer, grad_output, out, loss_out
        See `BCEWithLogits.value_and_grad`.

    Returns
    -------
    loss : float or array
        In nats; an array if ``reduction="none"``.
    grad : array
        With the shape and dtype of the logits, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError
        As raised by the class and its method.

    Examples
    --------
    Two samples with three tags each. The second tag is rare, so its positives count four times.

    >>> import numpy as np
    >>> import fastce
    >>> logits = np.array([[2.0, -1.0, 0.0], [-3.0, 0.5, 1.0]])
    >>> target = np.array([[1, 1, 0], [0, 0, 1]])
    >>> loss, grad = fastce.bce_with_logits(logits, target, pos_weight=[1.0, 4.0, 1.0])
    >>> round(loss, 6)
    1.234841
    >>> print(grad.round(4))
    [[-0.0199 -0.4874  0.0833]
     [ 0.0079  0.1037 -0.0448]]
    """
    return once(BCEWithLogits, locals())


def sigmoid_focal_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: npt.ArrayLike | None = 0.25,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    sample_weight: npt.ArrayLike | None = None,
    where: npt.ArrayLike | None = None,
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Any = None,
    loss_out: Array | None = None,
) -> tuple[Value, Array]:
    """Return the sigmoid focal loss of a batch and its gradient with respect to the logits.

    This is ``SigmoidFocalLoss(options).value_and_grad(logits, target, arguments)``.

    Parameters
    ----------
    logits, target : array_like
        See `SigmoidFocalLoss.value_and_grad`.
    gamma, alpha, label_smoothing, reduction
        See `SigmoidFocalLoss`.
    sample_weight, where, normalizer, grad_output, out, loss_out
        See `SigmoidFocalLoss.value_and_grad`.

    Returns
    -------
    loss : float or array
        In nats; an array if ``reduction="none"``.
    grad : array
        With the shape and dtype of the logits, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError
        As raised by the class and its method.

    Examples
    --------
    A detector's scores: one object and three background boxes. `normalizer` divides by the number
    of objects.

    >>> import numpy as np
    >>> import fastce
    >>> scores, is_object = np.array([0.5, -4.0, -3.0, 1.0]), np.array([1, 0, 0, 0])
    >>> loss, grad = fastce.sigmoid_focal_loss(scores, is_object, normalizer=1.0)
    >>> round(loss, 6)
    0.543381
    >>> print(np.array2string(grad.round(4), suppress_small=True))
    [-0.0345  0.      0.0002  0.5762]
    """
    return once(SigmoidFocalLoss, locals())
