"""The losses: the formula, the options and the source of each.

Options go to the constructor, data goes to the call::

    ce = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    loss, grad = ce.value_and_grad(logits, target)

`fastce.functions` has a function for each class, with its name in snake case.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastce._call import checks, elements, rows
from fastce._call.layout import Array
from fastce._call.loss import Loss

__all__ = [
    "BCEWithLogits",
    "SigmoidFocalLoss",
    "SoftmaxCrossEntropy",
    "SoftmaxFocalLoss",
    "SoftmaxKLDivergence",
]


class _SoftmaxLoss(Loss):
    """A loss with one sample per row, whose classes lie along ``axis``."""

    _family = staticmethod(rows.softmax_family)
    takes_probabilities: ClassVar[bool] = False
    takes_logits: ClassVar[bool] = False  # as the target, and nothing else
    class_weight_name: ClassVar[str] = ""  # none

    @property
    def class_weight(self) -> Array | None:
        weight: Array | None = getattr(self, self.class_weight_name, None)
        return weight

    def _new_kernel(self, core: Any) -> Any:
        return core.SoftmaxKernel(
            self._kind,
            class_weight=self.class_weight,
            takes_probabilities=self.takes_probabilities,
            **self._numbers,
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SoftmaxCrossEntropy(_SoftmaxLoss):
    r"""Softmax cross-entropy of class labels or of probabilities.

    The logits z are first scaled, and capped if `softcap` is given:

    .. math:: u = s·z \quad\text{or}\quad u = c·\tanh(s·z / c), \qquad
              s = \mathtt{logit\_scale},\ c = \mathtt{softcap}

    With :math:`\lse = \log \sum_j \exp u_j` and :math:`p = \mathrm{softmax}(u)`, the loss of a
    label y is

    .. math:: ℓ = (1−ε)\,w_y\,(\lse − u_y) + \frac{ε}{K} \sum_c w_c\,(\lse − u_c) + λ\,\lse^2

    and that of probabilities q, which are not renormalised, is

    .. math:: ℓ = \sum_c w_c\,q'_c\,(\lse − u_c) + λ\,\lse^2, \qquad q' = (1−ε)\,q + ε/K

    Let :math:`t_c` be the factor of :math:`\lse − u_c` in these sums, and :math:`M = \sum_c t_c`.
    The derivatives are

    .. math:: \frac{∂ℓ}{∂u_j} &= M\,p_j − t_j + 2λ\,\lse\,p_j \\
              \frac{∂^2ℓ}{∂u_j^2} &= (M + 2λ\,\lse)\,p_j (1−p_j) + 2λ\,p_j^2

    and the chain rule turns them into derivatives with respect to the logits. Losses and
    gradients of confident, correct rows are accurate, because :math:`1−p` is never computed.

    Parameters
    ----------
    weight : array_like of shape (K,), optional
        Weight w of each class: finite, at least 0. Ones by default.
    ignore_index : int, default -100
        Rows with this label are ignored: their logits are not read, their loss and gradient are 0.
    label_smoothing : float in [0, 1], default 0.0
        The share ε of the target that is spread evenly over all classes.
    z_loss : float, default 0.0
        The factor λ of the penalty lse², which keeps the scale of the logits from drifting. Any
        finite number.
    logit_scale : float, default 1.0
        Factor s of the logits; the reciprocal of a temperature. Any finite number.
    softcap : float > 0, optional
        Bound c of the scaled logits: u lies in (−c, c). A logit of −inf remains −inf if s > 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is :math:`\sum_i w_i ℓ_i / \sum_i w_i`, where :math:`w_i` is the sample weight,
        times :math:`w_y` for class labels.
    axis : int, default -1
        The axis of the classes.

    Raises
    ------
    TypeError, ValueError
        An option has the wrong type or is out of range.

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

    _kind = "cross_entropy"
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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SoftmaxFocalLoss(_SoftmaxLoss):
    r"""Softmax focal loss: cross-entropy that gives less weight to well-predicted rows.

    For a label y, with :math:`p = \mathrm{softmax}(z)` and :math:`q = 1 − p_y`, which is computed
    as the sum of all other :math:`p_j`:

    .. math:: ℓ = −α_y\,q^γ \log p_y

    Let A be the derivative of ℓ with respect to :math:`\log p_y`, and B that of A with respect to
    :math:`p_y`:

    .. math:: A &= α_y\,q^γ \Big(\frac{γ\,p_y \log p_y}{q} − 1\Big) \\
              B &= α_y\,γ\,q^{γ−1} \Big(\log p_y + 2 − \frac{(γ−1)\,p_y \log p_y}{q}\Big)

    The derivatives with respect to the logits are

    .. math:: \frac{∂ℓ}{∂z_j} &= A\,(δ_{jy} − p_j) \\
              \frac{∂^2ℓ}{∂z_j^2} &= p_y B\,(δ_{jy} − p_j)^2 − A\,p_j (1−p_j)

    The second can be negative. γ = 0 gives cross-entropy. The factor α belongs to the loss: it does
    not enter the denominator of the mean.

    Parameters
    ----------
    gamma : float >= 0, default 2.0
        The larger it is, the less a well-predicted row counts.
    alpha : array_like of shape (K,), optional
        Factor of each class: finite, at least 0. Ones by default.
    ignore_index : int, default -100
        Rows with this label are ignored: their logits are not read, their loss and gradient are 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is :math:`\sum_i w_i ℓ_i / \sum_i w_i`, where :math:`w_i` is the sample weight.
    axis : int, default -1
        The axis of the classes.

    Raises
    ------
    TypeError, ValueError
        An option has the wrong type or is out of range.

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

    _kind = "focal"
    class_weight_name = "alpha"

    def __post_init__(self) -> None:
        self._keep(
            gamma=checks.number("gamma", self.gamma, low=0),
            alpha=checks.weights("alpha", self.alpha, ndim=1),
            ignore_index=checks.integer("ignore_index", self.ignore_index),
            reduction=checks.reduction(self.reduction),
            axis=checks.axis(self.axis),
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SoftmaxKLDivergence(_SoftmaxLoss):
    r"""KL divergence from the softmax of a teacher's logits, for distillation.

    The target t holds the teacher's logits. With the temperature T,
    :math:`p = \mathrm{softmax}(t/T)`, :math:`q = \mathrm{softmax}(z/T)` and
    :math:`δ_j = \log p_j − \log q_j`:

    .. math:: ℓ &= T^2 \sum_j p_j\,δ_j = T^2 \sum_j p_j\,(δ_j + e^{−δ_j} − 1) \\
              \frac{∂ℓ}{∂z_j} &= T\,(q_j − p_j) = T\,p_j\,(e^{−δ_j} − 1) \\
              \frac{∂^2ℓ}{∂z_j^2} &= q_j\,(1 − q_j)

    The factor :math:`T^2` keeps the size of the gradients about the same at all temperatures. The
    loss is a sum of terms that are at least 0, so it is never negative. It stays accurate if p and
    q are nearly equal, because :math:`δ_j` is computed from differences of logits, and no
    probability is subtracted from another. The teacher has no gradient.

    A class whose logit is −inf in both arrays contributes 0. If only the student's logit is −inf,
    the loss is +inf and the gradient finite. If only the teacher's is, :math:`p_j` is 0, and the
    formulas apply as they are. A row of either array that has no softmax, because it contains NaN
    or +inf, or only −inf, gives NaN.

    Parameters
    ----------
    temperature : float > 0, default 1.0
        The number T, by which the logits of both the student and the teacher are divided.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is :math:`\sum_i w_i ℓ_i / \sum_i w_i`, where :math:`w_i` is the sample weight.
    axis : int, default -1
        The axis of the classes.

    Raises
    ------
    TypeError, ValueError
        An option has the wrong type or is out of range.

    References
    ----------
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> kl = fastce.SoftmaxKLDivergence(temperature=2.0, reduction="none")
    >>> student = np.array([[2.0, 0.0, -1.0], [1.0, 1.0, 1.0]])
    >>> teacher = np.array([[2.0, 1e-9, -1.0], [3.0, 1.0, 1.0]])
    >>> loss, grad = kl.value_and_grad(student, teacher)
    >>> print(loss)
    [8.88...e-20 4.93...e-01]
    """

    temperature: float = 1.0
    reduction: str = "mean"
    axis: int = -1

    _kind = "kl_divergence"
    takes_logits = True

    def __post_init__(self) -> None:
        self._keep(
            temperature=checks.number("temperature", self.temperature, above=0),
            reduction=checks.reduction(self.reduction),
            axis=checks.axis(self.axis),
        )
        # The loss is multiplied by T², as by a weight; see `largest_factor`.
        squared = self.temperature * self.temperature or 5e-324  # 0 would count as no factor
        self.__dict__["largest_factor"] = self._numbers["largest_factor"] = squared


class _SigmoidLoss(Loss):
    """A loss whose elements are independent of each other."""

    _family = staticmethod(elements.sigmoid_family)

    element_weight_name: ClassVar[str]

    @property
    def element_weights(self) -> tuple[Array | None, Array | None]:
        """Factors of the positive and the negative part: arrays that broadcast to the logits."""
        raise NotImplementedError

    def _new_kernel(self, core: Any) -> Any:
        return core.SigmoidKernel(self._kind, element_weights=self.element_weights, **self._numbers)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BCEWithLogits(_SigmoidLoss):
    r"""Binary cross-entropy of independent logits, for hard or soft targets.

    With the logistic function σ, :math:`\softplus(z) = \log(1 + \exp z)`, w = `pos_weight`, and the
    target y smoothed to :math:`y\,(1−ε) + ε/2`:

    .. math:: ℓ &= w\,y\,\softplus(−z) + (1−y)\,\softplus(z) \\
              \frac{∂ℓ}{∂z} &= (1−y)\,σ(z) − w\,y\,σ(−z) \\
              \frac{∂^2ℓ}{∂z^2} &= (w\,y + 1 − y)\,σ(z)\,σ(−z)

    :math:`1−σ` is never computed, so the tails are accurate down to the smallest normal number.

    Parameters
    ----------
    pos_weight : array_like, optional
        Factor w of the positive part; broadcasts to the logits. Finite, at least 0. It belongs to
        the loss: it does not enter the denominator of the mean.
    label_smoothing : float in [0, 1], default 0.0
        The fraction ε by which targets move towards 1/2: y·(1−ε) + ε/2.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is :math:`\sum_i w_i ℓ_i / \sum_i w_i` over all elements, where :math:`w_i` is the
        sample weight.

    Raises
    ------
    TypeError, ValueError
        An option has the wrong type or is out of range.

    References
    ----------
    Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3.2.

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

    _kind = "bce"
    element_weight_name = "pos_weight"

    def __post_init__(self) -> None:
        self._keep(
            pos_weight=checks.weights("pos_weight", self.pos_weight, ndim=None),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, low=0, high=1),
            reduction=checks.reduction(self.reduction),
        )

    @property
    def element_weights(self) -> tuple[Array | None, Array | None]:  # noqa: D102
        weight: Any = self.pos_weight
        return weight, None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SigmoidFocalLoss(_SigmoidLoss):
    r"""Sigmoid focal loss: BCE that gives less weight to well-predicted elements.

    For a target y of 0 or 1, let :math:`p_t` be the probability of the target: :math:`σ(z)` if
    y = 1, :math:`σ(−z)` if y = 0. Let :math:`α_t` be α if y = 1 and 1−α if y = 0, and s = 1 − 2y:

    .. math:: ℓ &= −α_t\,(1−p_t)^γ \log p_t \\
              \frac{∂ℓ}{∂z} &= −s\,α_t\,(1−p_t)^γ\,(γ\,p_t \log p_t + p_t − 1) \\
              \frac{∂^2ℓ}{∂z^2} &= α_t\,p_t\,(1−p_t)^γ
              \big[(1−p_t)(1 + 2γ + γ \log p_t) − γ^2\,p_t \log p_t\big]

    A target between 0 and 1 is treated as in torchvision: :math:`p_t = σ(z)\,y + σ(−z)(1−y)`,
    likewise :math:`α_t`, and the factor :math:`α_t\,(1−p_t)^γ` multiplies the BCE of y. Gradient
    and Hessian are the exact derivatives of that. γ = 0 gives α-weighted BCE. The Hessian can be
    negative.

    Parameters
    ----------
    gamma : float >= 0, default 2.0
        The larger it is, the less a well-predicted element counts. 0, 1 and 2 are fastest.
    alpha : float or array_like in [0, 1], or None, default 0.25
        Weight α of positives; negatives have 1−α. An array broadcasts to the logits, for example
        with one number per class along the last axis. None means no weights.
    label_smoothing : float in [0, 1], default 0.0
        The fraction ε by which targets move towards 1/2: y·(1−ε) + ε/2.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is :math:`\sum_i w_i ℓ_i / \sum_i w_i` over all elements, where :math:`w_i` is the
        sample weight.

    Raises
    ------
    TypeError, ValueError
        An option has the wrong type or is out of range.

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

    _kind = "focal"
    element_weight_name = "alpha"

    def __post_init__(self) -> None:
        self._keep(
            gamma=checks.number("gamma", self.gamma, low=0),
            alpha=checks.share("alpha", self.alpha),
            label_smoothing=checks.number("label_smoothing", self.label_smoothing, low=0, high=1),
            reduction=checks.reduction(self.reduction),
        )

    @property
    def element_weights(self) -> tuple[Array | None, Array | None]:  # noqa: D102
        if not isinstance(self.alpha, np.ndarray):
            return None, None
        # In float64: 1 − alpha has all its digits before it is rounded to the working precision.
        return self.alpha, 1 - self.alpha
