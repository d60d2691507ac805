"""The losses: what each one computes, of what, in which range, and where the formula comes from.

A loss is constructed with what the loss *is*, and called with what the batch *is*::

    ce = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    loss, grad = ce.value_and_grad(logits, target)

In the formulas z are the logits, u = softcap·tanh(logit_scale·z / softcap) (or logit_scale·z),
lse = log Σ_j exp u_j, p = softmax(u), σ the logistic function, K the number of classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastce._call import checks, elements, rows
from fastce._call.loss import Array, Loss, one_shot

__all__ = [
    "BCEWithLogits",
    "SigmoidFocalLoss",
    "SoftmaxCrossEntropy",
    "SoftmaxFocalLoss",
    "SoftmaxKLDivergence",
    "bce_with_logits",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_focal_loss",
    "softmax_kl_divergence",
]


class _SoftmaxLoss(Loss):
    """A loss of rows: one sample each, its classes along ``axis``."""

    _family = staticmethod(rows.softmax_family)
    takes_probabilities: ClassVar[bool] = False
    takes_logits: ClassVar[bool] = False  # for a target, and nothing else
    class_weight_name: ClassVar[str] = ""  # none

    @property
    def class_weight(self) -> Array | None:
        weight: Array | None = getattr(self, self.class_weight_name, None)
        return weight


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SoftmaxCrossEntropy(_SoftmaxLoss):
    """Softmax cross-entropy of class labels or of probabilities.

    For a label y::

        loss = (1−ε)·w_y·(lse − u_y) + (ε/K)·Σ_c w_c (lse − u_c) + λ·lse²

    and for probabilities q, with q' = (1−ε)·q + ε/K (q is not renormalised)::

        loss = Σ_c w_c q'_c (lse − u_c) + λ·lse²

    With t_c the weight of (lse − u_c) in these sums and M = Σ_c t_c, the gradient by u_j is
    M·p_j − t_j + 2λ·lse·p_j, and the Hessian's diagonal (M + 2λ·lse)·p_j (1−p_j) + 2λ·p_j²; the
    chain rule takes both to the logits. The tails are exact: a confident, correct row keeps all its
    digits, because no 1−p is formed.

    Parameters
    ----------
    weight : array_like of shape (K,), optional
        Weight w of each class: finite, at least 0. Ones by default.
    ignore_index : int, default -100
        Rows with this label do not count: their logits are not used, loss and gradient are 0.
    label_smoothing : float in [0, 1], default 0.0
        The share ε of the target that is spread evenly over the classes.
    z_loss : float, default 0.0
        The factor λ of lse², which keeps the logits' scale from drifting.
    logit_scale : float, default 1.0
        Multiplies the logits; the reciprocal of a temperature.
    softcap : float > 0, optional
        Bounds the scaled logits to (−softcap, softcap). A logit of −inf remains −inf.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ, where wᵢ is the sample's weight, times w_y for labels.
    axis : int, default -1
        The axis of the classes.

    Raises
    ------
    TypeError, ValueError
        An option is of the wrong type, or out of range.

    References
    ----------
    C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016
    (label smoothing); A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways",
    JMLR 2023 (z-loss).

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> ce = fastce.SoftmaxCrossEntropy(reduction="none")
    >>> logits = np.array([[20.0, 0.0], [1.0, 2.0]], dtype=np.float32)
    >>> loss, grad = ce.value_and_grad(logits, [0, 0])
    >>> print(loss)
    [2.0611537e-09 1.3132617e+00]
    >>> print(grad)
    [[-2.0611537e-09  2.0611537e-09]
     [-7.3105860e-01  7.3105860e-01]]
    """

    weight: npt.ArrayLike | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    logit_scale: float = 1.0
    softcap: float | None = None
    reduction: str = "mean"
    axis: int = -1

    takes_probabilities = True
    class_weight_name = "weight"

    def __post_init__(self) -> None:
        cap = self.softcap
        self._keep(
            weight=checks.weights("weight", self.weight, ndim=1),
            ignore_index=checks.integer("ignore_index", self.ignore_index),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, low=0, high=1),
            z_loss=checks.number("z_loss", self.z_loss),
            logit_scale=checks.number("logit_scale", self.logit_scale),
            softcap=None if cap is None else checks.number("softcap", cap, above=0),
            reduction=checks.reduction(self.reduction),
            axis=checks.axis(self.axis),
        )

    def _new_kernel(self, core: Any) -> Any:
        return core.SoftmaxKernel(
            "cross_entropy",
            class_weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            logit_scale=self.logit_scale,
            softcap=self.softcap or 0.0,
            reduction=self.reduction,
            axis=self.axis,
            largest_factor=self.largest_factor,
            takes_probabilities=self.takes_probabilities,
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SoftmaxFocalLoss(_SoftmaxLoss):
    """Focal loss of a softmax: cross-entropy that attends less to what is predicted well.

    For a label y, with q = 1 − p_y = Σ_{j≠y} p_j::

        loss = −α_y·q^γ·log p_y

    With A = α_y·q^γ·(γ·p_y·log p_y / q − 1) and
    B = dA/dp_y = α_y·γ·q^(γ−1)·(log p_y + 2 − (γ−1)·p_y·log p_y / q), the gradient by z_j is
    A·(δ_jy − p_j), and the Hessian's diagonal p_y·B·(δ_jy − p_j)² − A·p_j (1−p_j), which can be
    negative. γ = 0 is cross-entropy. α weighs the loss; it enters neither p_y nor the mean.

    Parameters
    ----------
    gamma : float >= 0, default 2.0
        How little attention well predicted rows get.
    alpha : array_like of shape (K,), optional
        Factor of each class: finite, at least 0. Ones by default.
    ignore_index : int, default -100
        Rows with this label do not count: their logits are not used, loss and gradient are 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ, where wᵢ is the sample's weight.
    axis : int, default -1
        The axis of the classes.

    Raises
    ------
    TypeError, ValueError
        An option is of the wrong type, or out of range.

    References
    ----------
    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> focal = fastce.SoftmaxFocalLoss(gamma=2.0, reduction="none")
    >>> print(focal(np.array([[2.0, 0.0], [0.0, 2.0]]), [0, 0]))
    [0.00180356 1.65007818]
    """

    gamma: float = 2.0
    alpha: npt.ArrayLike | None = None
    ignore_index: int = -100
    reduction: str = "mean"
    axis: int = -1

    class_weight_name = "alpha"

    def __post_init__(self) -> None:
        self._keep(
            gamma=checks.number("gamma", self.gamma, low=0),
            alpha=checks.weights("alpha", self.alpha, ndim=1),
            ignore_index=checks.integer("ignore_index", self.ignore_index),
            reduction=checks.reduction(self.reduction),
            axis=checks.axis(self.axis),
        )

    def _new_kernel(self, core: Any) -> Any:
        return core.SoftmaxKernel(
            "focal",
            class_weight=self.alpha,
            ignore_index=self.ignore_index,
            gamma=self.gamma,
            reduction=self.reduction,
            axis=self.axis,
            largest_factor=self.largest_factor,
            takes_probabilities=self.takes_probabilities,
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SoftmaxKLDivergence(_SoftmaxLoss):
    """KL divergence of a softmax from that of a teacher's logits: distillation.

    For the teacher's logits t, which are the target, with T the temperature, p = softmax(t/T),
    q = softmax(z/T) and δ_j = log p_j − log q_j::

        loss = T²·Σ_j p_j (log p_j − log q_j) = T²·Σ_j p_j (δ_j + expm1(−δ_j))
        grad = T·(q_j − p_j) = T·p_j·expm1(−δ_j)
        hess = q_j (1 − q_j)

    T² keeps the gradients of one size over temperatures. The loss is never negative, and exact
    where p and q are nearly equal: it is a sum of terms ≥ 0, δ_j comes from the differences of the
    logits, and no two probabilities are subtracted. The teacher has no gradient.

    A class whose logit is −inf in both counts 0; one that the student alone excludes makes the loss
    +inf, with a finite gradient; one that the teacher alone excludes costs nothing special. A row
    that has no softmax in either (NaN, +inf, or −inf alone) is NaN.

    Parameters
    ----------
    temperature : float > 0, default 1.0
        Divides the logits of both.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ, where wᵢ is the sample's weight.
    axis : int, default -1
        The axis of the classes.

    Raises
    ------
    TypeError, ValueError
        An option is of the wrong type, or out of range.

    References
    ----------
    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> kl = fastce.SoftmaxKLDivergence(temperature=2.0, reduction="none")
    >>> student = np.array([[2.0, 0.0, -1.0], [1.0, 1.0, 1.0]])
    >>> teacher = np.array([[2.0, 1e-9, -1.0], [3.0, 1.0, 1.0]])
    >>> loss, grad = kl.value_and_grad(student, teacher)
    >>> print(loss)
    [8.49...e-20 4.54...e-01]
    """

    temperature: float = 1.0
    reduction: str = "mean"
    axis: int = -1

    takes_logits = True

    def __post_init__(self) -> None:
        self._keep(
            temperature=checks.number("temperature", self.temperature, above=0),
            reduction=checks.reduction(self.reduction),
            axis=checks.axis(self.axis),
        )
        # What multiplies the derivatives: see `largest_factor`.
        self.__dict__["largest_factor"] = self.temperature

    def _new_kernel(self, core: Any) -> Any:
        return core.SoftmaxKernel(
            "kl_divergence",
            temperature=self.temperature,
            reduction=self.reduction,
            axis=self.axis,
            largest_factor=self.largest_factor,
        )


class _SigmoidLoss(Loss):
    """A loss of independent elements."""

    _family = staticmethod(elements.sigmoid_family)

    element_weight_name: ClassVar[str]

    @property
    def element_weights(self) -> tuple[Array | None, Array | None]:
        """Arrays that broadcast to the logits: factors of the positive and the negative part."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BCEWithLogits(_SigmoidLoss):
    """Binary cross-entropy of independent logits, for hard or soft targets.

    With y smoothed to y·(1−ε) + ε/2, and w = pos_weight::

        loss = w·y·softplus(−z) + (1−y)·softplus(z)
        grad = (1−y)·σ(z) − w·y·σ(−z)
        hess = (w·y + 1−y)·σ(z)·σ(−z)

    No 1−σ is formed: the tails keep their digits down to the smallest normal number.

    Parameters
    ----------
    pos_weight : array_like, optional
        Factor of the positive part; broadcasts to the logits. Finite, at least 0. It is part of the
        loss and does not enter the mean's denominator.
    label_smoothing : float in [0, 1], default 0.0
        The share ε of the target that is moved to 1/2.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ over the elements, where wᵢ is `sample_weight`.

    Raises
    ------
    TypeError, ValueError
        An option is of the wrong type, or out of range.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3.2.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> bce = fastce.BCEWithLogits(reduction="none")
    >>> loss, grad = bce.value_and_grad(np.array([0.0, 50.0, 50.0]), [1, 1, 0])
    >>> print(loss)
    [6.93147181e-01 1.92874985e-22 5.00000000e+01]
    >>> print(grad)
    [-5.00000000e-01 -1.92874985e-22  1.00000000e+00]
    """

    pos_weight: npt.ArrayLike | None = None
    label_smoothing: float = 0.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        self._keep(
            pos_weight=checks.weights("pos_weight", self.pos_weight, ndim=None),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, low=0, high=1),
            reduction=checks.reduction(self.reduction),
        )

    element_weight_name = "pos_weight"

    @property
    def element_weights(self) -> tuple[Array | None, Array | None]:  # noqa: D102
        weight: Any = self.pos_weight
        return weight, None

    def _new_kernel(self, core: Any) -> Any:
        return core.SigmoidKernel(
            "bce",
            label_smoothing=self.label_smoothing,
            element_weights=self.element_weights,
            largest_factor=self.largest_factor,
            reduction=self.reduction,
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SigmoidFocalLoss(_SigmoidLoss):
    """Focal loss of independent logits: BCE that attends less to what is predicted well.

    For targets of 0 and 1, with p_t = σ(z) for y = 1 and σ(−z) for y = 0, s = 1 − 2y, and
    α_t = α for y = 1 and 1−α for y = 0::

        loss = −α_t·(1−p_t)^γ·log p_t
        grad = −s·α_t·(1−p_t)^γ·(γ·p_t·log p_t + p_t − 1)
        hess = α_t·p_t·(1−p_t)^γ·[(1−p_t)(1 + 2γ + γ·log p_t) − γ²·p_t·log p_t]

    For targets between, p_t = σ(z)·y + σ(−z)·(1−y) and α_t likewise, times the BCE of y; gradient
    and Hessian are the exact derivatives of that. γ = 0 is α-weighted BCE. The Hessian can be
    negative.

    Parameters
    ----------
    gamma : float >= 0, default 2.0
        How little attention well predicted elements get. 0, 1 and 2 are faster than others.
    alpha : float or array_like in [0, 1], or None, default 0.25
        Weight of the positive class; 1−alpha is that of the negative. An array broadcasts to the
        logits: the last axis has one number per class, say. None: no weights.
    label_smoothing : float in [0, 1], default 0.0
        The share ε of the target that is moved to 1/2: y·(1−ε) + ε/2.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ over the elements, where wᵢ is `sample_weight`.

    Raises
    ------
    TypeError, ValueError
        An option is of the wrong type, or out of range.

    References
    ----------
    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> focal = fastce.SigmoidFocalLoss(gamma=2.0, alpha=None, reduction="none")
    >>> print(focal(np.array([-2.0, 0.0, 2.0]), [1, 1, 1]))
    [1.65007818 0.1732868  0.00180356]
    """

    gamma: float = 2.0
    alpha: npt.ArrayLike | None = 0.25
    label_smoothing: float = 0.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        self._keep(
            gamma=checks.number("gamma", self.gamma, low=0),
            alpha=checks.share("alpha", self.alpha),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, low=0, high=1),
            reduction=checks.reduction(self.reduction),
        )

    element_weight_name = "alpha"

    @property
    def element_weights(self) -> tuple[Array | None, Array | None]:  # noqa: D102
        if not isinstance(self.alpha, np.ndarray):
            return None, None
        # In float64: 1 − alpha has all its digits before it is rounded to the working precision.
        return self.alpha, 1 - self.alpha

    def _new_kernel(self, core: Any) -> Any:
        return core.SigmoidKernel(
            "focal",
            label_smoothing=self.label_smoothing,
            gamma=self.gamma,
            alpha=None if isinstance(self.alpha, np.ndarray) else self.alpha,
            element_weights=self.element_weights,
            largest_factor=self.largest_factor,
            reduction=self.reduction,
        )


softmax_cross_entropy = one_shot(SoftmaxCrossEntropy, "softmax_cross_entropy")
softmax_focal_loss = one_shot(SoftmaxFocalLoss, "softmax_focal_loss")
softmax_kl_divergence = one_shot(SoftmaxKLDivergence, "softmax_kl_divergence")
bce_with_logits = one_shot(BCEWithLogits, "bce_with_logits")
sigmoid_focal_loss = one_shot(SigmoidFocalLoss, "sigmoid_focal_loss")
