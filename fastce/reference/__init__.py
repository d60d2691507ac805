"""The losses of fastce in plain NumPy, written from their formulas.

The compiled kernels are tested against this module, which imports nothing else from the package.
Read it to see what is computed. It computes in float64, or in longdouble if the logits are
longdouble, and does not check its arguments; the loss classes explain what they mean. Every loss
takes `reduction`, `sample_weight`, `normalizer` and `grad_output`, too. It returns
``(loss, grad, hess)``: the loss, and the gradient and the diagonal of the Hessian of
``grad_output * loss`` with respect to the logits (of its sum if there is no reduction).

Notation: z are the logits, u the logits after scale and cap, p the probabilities, y the target, and
q the probability of everything except the target. Two rules keep every digit of a confident
prediction. No probability is ever subtracted from 1. The sum over the other classes is computed
without the largest term, in which the digits of the others would be lost.

References
----------
Label smoothing: C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
CVPR 2016. Focal loss: T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
z-loss: A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 2023.
Distillation: G. Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce.reference import _elements
from fastce.reference._elements import *  # noqa: F403
from fastce.reference._parts import (
    Array,
    Result,
    _at_target,
    _left_in,
    _reduce,
    _softmax_of,
    _sum_of_others,
    _times,
    _to_real,
)
from fastce.reference._statistics import RowStatistics, row_statistics

__all__ = [
    "RowStatistics",
    "TokenLogProbs",
    "log_softmax",
    "logsumexp",
    "row_statistics",
    "softmax",
    "softmax_cross_entropy",
    "softmax_focal_loss",
    "softmax_kl_divergence",
    "token_log_probs",
]
__all__ += _elements.__all__


# The softmax family -------------------------------------------------------------------------------


def _rows(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    where: npt.ArrayLike | None,
    ignore_index: int,
    axis: int,
) -> tuple[Array, Array, Array, Array]:
    """Move the class axis to the end.

    Returns the logits, the target as probabilities (one-hot for labels), the classes that `where`
    leaves in, and the rows that are not ignored.
    """
    z = _to_real(logits)
    kept = np.moveaxis(_left_in(where, z.shape), axis, -1)
    z = np.moveaxis(z, axis, -1)
    target = np.asarray(target)
    if target.shape != np.shape(logits) and target.dtype.kind in "iu":
        q = target[..., None] == np.arange(z.shape[-1])
        used = target != ignore_index
    else:
        q = np.moveaxis(_to_real(target), axis, -1)
        used = np.ones(z.shape[:-1], dtype=bool)
    return z, q, kept, used


def _reduce_rows(
    loss: Array, grad: Array, hess: Array, kept: Array, used: Array, axis: int, **how: Any
) -> Result:
    """Reduce the losses of rows, and move the class axis of the derivatives back.

    The derivatives of a class that `where` leaves out are 0.
    """
    grad, hess = np.where(kept, grad, 0), np.where(kept, hess, 0)
    value, grad, hess = _reduce(loss, grad, hess, used=used, **how)
    return value, np.moveaxis(grad, -1, axis), np.moveaxis(hess, -1, axis)


def _scale_and_cap(z: Array, scale: float, softcap: float | None) -> tuple[Array, Array, Array]:
    """Return u = softcap·tanh(scale·z / softcap), or scale·z, and its two derivatives.

    The cap bounds finite logits only: a logit of −inf still removes its class.
    """
    if softcap is None:
        return scale * z, np.full_like(z, scale), np.zeros_like(z)
    x = scale * z / softcap
    tanh, sech_squared = np.tanh(x), 1 / np.cosh(x) ** 2
    u = np.where(np.isfinite(z), softcap * tanh, scale * z)
    return u, scale * sech_squared, -2 * scale**2 / softcap * tanh * sech_squared


@np.errstate(all="ignore")
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
    axis: int = -1,
    where: npt.ArrayLike | None = None,
    **how: Any,
) -> Result:
    r"""Compute softmax cross-entropy, with label smoothing ε and z-loss λ.

    With the target q (one-hot for labels), class weights w, and K classes that `where` leaves in:

    .. math:: ℓ &= \sum_c t_c\,(\lse − u_c) + λ\,\lse^2, \quad t_c = w_c\,((1−ε)\,q_c + ε/K) \\
              ∂ℓ/∂u_j &= M\,p_j − t_j + 2λ\,\lse\,p_j, \quad M = \sum_c t_c \\
              ∂^2ℓ/∂u_j^2 &= (M + 2λ\,\lse)\,p_j (1−p_j) + 2λ\,p_j^2

    The chain rule turns these derivatives into those with respect to the logits.
    """
    z, q, kept, used = _rows(logits, target, where, ignore_index, axis)
    u, du, d2u = _scale_and_cap(z, logit_scale, softcap)
    sm = _softmax_of(np.where(kept, u, -np.inf))
    lse = sm.log_sum_exp

    w = _to_real(np.ones(z.shape[-1]) if weight is None else weight)
    # All in the logits' precision: the equal rounding errors of many small t would add up.
    classes = np.sum(kept, axis=-1, keepdims=True, dtype=z.dtype)
    t = w * ((1 - label_smoothing) * q.astype(z.dtype) + _times(label_smoothing, kept / classes))

    loss = np.sum(_times(t, sm.surprise), axis=-1, keepdims=True) + _times(z_loss, lse**2)
    loss = np.where(np.isnan(lse), np.nan, loss)[..., 0]

    # M p_j − t_j = [(M − t_j) e_j − t_j Σ_{i≠j} e_i] / S, which keeps the tails.
    grad_u = (_sum_of_others(t) * sm.exps - t * sm.others) / sm.total
    grad_u = grad_u + _times(z_loss, 2 * lse * sm.p)
    curvature = np.sum(t, axis=-1, keepdims=True) + _times(z_loss, 2 * lse)
    hess_u = curvature * sm.p * sm.one_minus_p + 2 * z_loss * sm.p**2

    grad, hess = grad_u * du, hess_u * du**2 + grad_u * d2u
    class_weight = _at_target(w, q)[..., 0] if q.dtype == bool else 1
    return _reduce_rows(loss, grad, hess, kept, used, axis, class_weight=class_weight, **how)


@np.errstate(all="ignore")
def softmax_focal_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    axis: int = -1,
    where: npt.ArrayLike | None = None,
    **how: Any,
) -> Result:
    r"""Compute the softmax focal loss of a label y, with :math:`q = \sum_{j≠y} p_j`.

    .. math:: ℓ &= −α_y\,q^γ \log p_y \\
              A &= ∂ℓ/∂\log p_y = α_y\,q^γ (γ\,p_y \log p_y / q − 1) \\
              B &= dA/dp_y = α_y\,γ\,q^{γ−1} (\log p_y + 2 − (γ−1)\,p_y \log p_y / q) \\
              ∂ℓ/∂z_j &= A\,(δ_{jy} − p_j) \\
              ∂^2ℓ/∂z_j^2 &= p_y B\,(δ_{jy} − p_j)^2 − A\,p_j (1−p_j)
    """
    z, one_hot, kept, used = _rows(logits, target, where, ignore_index, axis)
    sm = _softmax_of(np.where(kept, z, -np.inf))
    p = _at_target(sm.p, one_hot)
    q = _at_target(sm.one_minus_p, one_hot)
    log_p = -_at_target(sm.surprise, one_hot)
    alpha_y = _at_target(_to_real(np.ones(z.shape[-1]) if alpha is None else alpha), one_hot)

    p_log_p = _times(p, log_p)
    ratio = np.where(q == 0, -1, p_log_p / q)  # p log p / q, and its limit at p = 1
    modulation = alpha_y * q**gamma
    loss = np.where(np.isnan(p), np.nan, _times(modulation, -log_p))[..., 0]

    a = modulation * (gamma * ratio - 1)
    grad = a * np.where(one_hot, q, -sm.p)

    # (δ_jy − p_j)² = q² r_j² with r_j ≤ 1, so q^(γ−1), which can be infinite, never appears.
    r = np.where(one_hot, 1, np.where(sm.p == 0, 0, sm.p / q))
    p_b_q2 = modulation * q * gamma * (p_log_p + 2 * p - (gamma - 1) * p * ratio)
    hess = p_b_q2 * r**2 - a * sm.p * sm.one_minus_p
    return _reduce_rows(loss, grad, hess, kept, used, axis, **how)


def _divergence_term(delta: Array) -> Array:
    """Compute δ + exp(−δ) − 1 for |δ| < 1, where the sum cancels, by its power series."""
    power = delta * delta / 2
    total = np.zeros_like(delta)
    for k in range(3, 27):
        total = total + power
        power = power * -delta / k
    return total


@np.errstate(all="ignore")
def softmax_kl_divergence(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    temperature: float = 1.0,
    axis: int = -1,
    where: npt.ArrayLike | None = None,
    **how: Any,
) -> Result:
    r"""Compute the KL divergence from the softmax of a teacher's logits, the target.

    With the logits z, the teacher's logits t, the temperature T, :math:`p = \mathrm{softmax}(t/T)`,
    :math:`q = \mathrm{softmax}(z/T)` and :math:`δ_j = \log p_j − \log q_j`:

    .. math:: ℓ &= T^2 \sum_j p_j\,δ_j = T^2 \sum_j p_j\,(δ_j + \operatorname{expm1}(−δ_j)) \\
              ∂ℓ/∂z_j &= T\,(q_j − p_j) = T\,p_j \operatorname{expm1}(−δ_j) \\
              ∂^2ℓ/∂z_j^2 &= q_j (1−q_j)

    The second form of the loss adds :math:`\sum q − \sum p = 0`, and has no negative term. From an
    estimate D of :math:`\lse(t/T) − \lse(z/T)`, and :math:`d_j = (t_j − z_j)/T`, the exact
    difference is :math:`D − \mathrm{log1p}(\sum_j p_j \operatorname{expm1}(D − d_j))`. So no digit
    is lost if p and q are nearly equal.
    """
    z, t, kept, used = _rows(logits, np.asarray(target, _to_real(logits).dtype), where, 0, axis)
    z, t = np.where(kept, z, -np.inf), np.where(kept, t, -np.inf)
    student, teacher = _softmax_of(z / temperature), _softmax_of(t / temperature)
    p, q = teacher.p, student.p

    estimate = teacher.log_sum_exp - student.log_sum_exp
    delta = np.where((p > 0) & (q > 0), (t - z) / temperature - estimate, np.inf)
    near = (np.abs(delta) < 1) & (np.abs(estimate) < 1e6)  # beyond, δ is lost to rounding
    change = np.where(near, p * np.expm1(np.where(near, -delta, 0)), q - p)
    delta = delta + np.log1p(np.sum(change, axis=-1, keepdims=True))
    change = np.where(near, p * np.expm1(np.where(near, -delta, 0)), q - p)

    far = _times(p, teacher.surprise * -1 + student.surprise) + change
    terms = np.where(near, p * _divergence_term(np.where(near, delta, 0)), far)
    terms = np.where(np.isneginf(z) & (t > -np.inf), np.inf, terms)  # however small p is
    has_softmax = np.isfinite(student.log_sum_exp) & np.isfinite(teacher.log_sum_exp)
    loss = np.where(has_softmax[..., 0], temperature**2 * np.sum(terms, axis=-1), np.nan)
    grad = np.where(has_softmax, temperature * change, np.nan)
    hess = np.where(has_softmax, q * student.one_minus_p, np.nan)
    return _reduce_rows(loss, grad, hess, kept, used, axis, **how)


# Softmax functions --------------------------------------------------------------------------------


@np.errstate(all="ignore")
def softmax(logits: npt.ArrayLike, axis: int = -1) -> Array:
    r"""Compute :math:`p_j = \exp z_j / \sum_i \exp z_i`."""
    rows = _softmax_of(np.moveaxis(_to_real(logits), axis, -1))
    return np.moveaxis(rows.p, -1, axis)


@np.errstate(all="ignore")
def log_softmax(logits: npt.ArrayLike, axis: int = -1) -> Array:
    r"""Compute :math:`\log p_j = z_j − \log \sum_i \exp z_i`."""
    rows = _softmax_of(np.moveaxis(_to_real(logits), axis, -1))
    return np.moveaxis(-rows.surprise, -1, axis)


@np.errstate(all="ignore")
def logsumexp(logits: npt.ArrayLike, axis: int = -1) -> Array:
    r"""Compute :math:`\log \sum_i \exp z_i`: +inf if a logit is +inf, −inf if all are −inf."""
    z = _to_real(logits)
    rows = _softmax_of(np.moveaxis(z, axis, -1))
    largest = np.max(z, axis=axis)
    return np.where(np.isinf(largest), largest, rows.log_sum_exp[..., 0])


class TokenLogProbs(NamedTuple):
    """Log-probability of the target, log-sum-exp, and first largest class of each row."""

    log_prob: Array
    lse: Array
    argmax: Array


@np.errstate(all="ignore")
def token_log_probs(logits: npt.ArrayLike, target: npt.ArrayLike) -> TokenLogProbs:
    """Return (z_y − lse, lse, argmax z) for each row of the last axis."""
    z = _to_real(logits)
    labels = np.asarray(target)[..., None]
    log_prob = np.take_along_axis(log_softmax(z), labels, axis=-1)[..., 0]
    return TokenLogProbs(log_prob, logsumexp(z), np.argmax(z, axis=-1))
