"""The losses of independent elements: see the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastce.reference._parts import (
    Array,
    Result,
    _left_in,
    _reduce,
    _sigmoid,
    _softplus,
    _times,
    _to_real,
)

__all__ = ["bce_with_logits", "sigmoid_focal_loss"]


def _smoothed(target: npt.ArrayLike, label_smoothing: float) -> tuple[Array, Array]:
    """Return the smoothed target y(1−ε) + ε/2, and 1 minus it."""
    y = _to_real(target)
    half = label_smoothing / 2
    return y * (1 - label_smoothing) + half, (1 - y) * (1 - label_smoothing) + half


@np.errstate(all="ignore")
def bce_with_logits(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    pos_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    where: npt.ArrayLike | None = None,
    **how: Any,
) -> Result:
    r"""Compute binary cross-entropy of the smoothed target y, with w = `pos_weight`.

    .. math:: ℓ &= w\,y\,\softplus(−z) + (1−y)\,\softplus(z) \\
              ∂ℓ/∂z &= (1−y)\,σ(z) − w\,y\,σ(−z) \\
              ∂^2ℓ/∂z^2 &= (w\,y + 1 − y)\,σ(z)\,σ(−z)
    """
    z = _to_real(logits)
    positive, negative = _smoothed(target, label_smoothing)
    positive = positive * _to_real(1.0 if pos_weight is None else pos_weight)

    loss = _times(positive, _softplus(-z)) + _times(negative, _softplus(z))
    grad = negative * _sigmoid(z) - positive * _sigmoid(-z)
    hess = (positive + negative) * _sigmoid(z) * _sigmoid(-z)
    loss = np.where(np.isnan(z), np.nan, loss)
    return _reduce(loss, grad, hess, used=_left_in(where, z.shape), **how)


@np.errstate(all="ignore")
def sigmoid_focal_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: npt.ArrayLike | None = 0.25,
    label_smoothing: float = 0.0,
    where: npt.ArrayLike | None = None,
    **how: Any,
) -> Result:
    r"""Compute the sigmoid focal loss of hard or soft targets, :math:`ℓ = a\,q^γ\,c`.

    :math:`c = y\,\softplus(−z) + (1−y)\,\softplus(z)` is the cross-entropy,
    :math:`q = y\,σ(−z) + (1−y)\,σ(z)` the probability of not drawing the target, and
    :math:`a = α\,y + (1−α)(1−y)`, or 1 if α is None. With :math:`q' = (1−2y)\,σ(z)\,σ(−z)` and
    :math:`r = q'/q`, we have :math:`q''/q = r\,(σ(−z) − σ(z))`, and

    .. math:: ∂ℓ/∂z &= a\,q^γ (c' + γ\,c\,r) \\
              ∂^2ℓ/∂z^2 &= a\,q^γ (c'' + 2γ\,c' r + γ\,c\,r\,[(γ−1)\,r + σ(−z) − σ(z)])
    """
    z = _to_real(logits)
    y, not_y = _smoothed(target, label_smoothing)
    p, not_p = _sigmoid(z), _sigmoid(-z)

    c = _times(y, _softplus(-z)) + _times(not_y, _softplus(z))
    dc = not_y * p - y * not_p
    d2c = p * not_p
    q = y * not_p + not_y * p
    r = (not_y - y) / (_times(y, 1 / p) + _times(not_y, 1 / not_p))  # no 0/0 where q vanishes
    rc = _times(r, c)

    share = None if alpha is None else _to_real(alpha)
    modulation = (1 if share is None else share * y + (1 - share) * not_y) * q**gamma
    loss = _times(modulation, c)
    grad = modulation * (dc + gamma * rc)
    hess = modulation * (d2c + 2 * gamma * dc * r + gamma * rc * ((gamma - 1) * r + not_p - p))
    loss = np.where(np.isnan(z), np.nan, loss)
    return _reduce(loss, grad, hess, used=_left_in(where, z.shape), **how)
