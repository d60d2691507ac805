"""Second derivatives for boosted trees.

The formulas and their derivation are in ``fastce.objectives``. Throughout, v_j = δ_jy − p_j and
q = 1 − p_y; softmax focal loss has the gradient −a·v and the Hessian a·(diag(p) − p·pᵀ) + b·v·vᵀ.
"""

from typing import Any, Literal

import numpy as np

from fastce._call import checks
from fastce._call.layout import Array
from fastce.losses import SoftmaxCrossEntropy, SoftmaxFocalLoss

# XGBoost's smallest second derivative. A leaf whose second derivatives sum to 0 gets no value.
LEAST_HESSIAN = 1e-16


# Plain cross-entropy. Objectives of an equal loss share this object.
PLAIN = SoftmaxCrossEntropy(reduction="sum")


def one_hot(labels: Array, classes: int, dtype: Any, order: Literal["C", "F"]) -> Array:
    """Return (n, K): 1 at each sample's label and 0 elsewhere."""
    checks.labels_in_range(labels, classes)
    result = np.zeros((len(labels), classes), dtype, order)
    result[np.arange(len(labels)), labels] = 1
    return result


# Second derivatives -------------------------------------------------------------------------------


def empty_pair(scores: Array) -> tuple[Array, Array] | None:
    """Return arrays for gradient and Hessian, with the shape and memory order of the scores.

    They share one allocation, which is more often large enough for NumPy to ask the system for
    large pages: the page faults of two new arrays can take longer than the derivatives. None if the
    scores are not contiguous.
    """
    if scores.flags.c_contiguous:
        pair = np.empty((2, *scores.shape), scores.dtype)
        return pair[0], pair[1]
    if scores.flags.f_contiguous:
        pair = np.empty((2, *scores.shape[::-1]), scores.dtype)
        return pair[0].T, pair[1].T
    return None


def focal_bound(grad: Array, hess: Array, scores: Array, labels: Array) -> Array:
    """Return the diagonal bound of a softmax focal loss, (n, K).

    a·|v_j| is |g_j|, and b·q² is h_y − |g_y|·p_y. With r = max(b, 0)·q / a the bound is
    D_j = 2·|g_j|·(1 − p_j + r), with p_y instead of 1 − p_y at the label. Both are p_j (1−p_j) over
    |v_j|: the Hessian and the gradient of plain cross-entropy, which have all their digits.
    """
    labels = labels.clip(0, scores.shape[1] - 1)  # a row with ignore_index has no gradient
    _, v, variance = PLAIN.value_grad_hess(scores, labels, out=empty_pair(scores))
    bound, size, at = np.abs(v), np.abs(grad), labels[:, None]
    is_positive = bound > 0
    np.divide(variance, bound, out=bound, where=is_positive)
    bound[~is_positive] = 1
    g_y, h_y, p_y = (np.take_along_axis(array, at, axis=1) for array in (size, hess, bound))
    r = np.divide(h_y, g_y, out=np.zeros_like(g_y), where=g_y > 0) - p_y
    bound += np.maximum(r, 0)
    bound *= size
    bound *= 2
    return bound


def row_derivatives(
    loss: Any, scores: Array, label: Array, floor: float | None
) -> tuple[Array, Array]:
    """Return gradient (K,) and Hessian (K, K) of one sample.

    ``loss`` is a SoftmaxCrossEntropy without z_loss and softcap, or a SoftmaxFocalLoss, with
    reduction "sum"; ``scores`` are (1, K), and ``label`` (1,). The matrix is computed from the
    gradient −v and the diagonal p_j (1−p_j) of plain cross-entropy, which have all their digits.

    Unless ``floor`` is None, b is at least 0, and so large that H_yy ≥ floor·|g_y|. For g = −a·v,
    the Newton step of the sample is δ_jy / (p_y + b·q/a), up to one number for all classes. Hence
    it raises the score of the label, relative to the others, by |g_y| / H_yy ≤ 1 / floor.
    """
    y = label.item()
    _, (grad,), (hess,) = loss.value_grad_hess(scores, label)
    if y == loss.ignore_index:
        return grad, np.zeros((grad.size, grad.size))
    is_focal = isinstance(loss, SoftmaxFocalLoss)
    own, variance = grad, hess  # −v_j, and p_j (1−p_j)
    if loss is not PLAIN:
        scaled = scores if is_focal else scores * loss.logit_scale
        _, (own,), (variance,) = PLAIN.value_grad_hess(scaled, label)
    v = -own
    q = float(v[y])
    p = own.copy()
    p[y] = variance[y] / q if q else 1.0
    matrix: Array = (-p)[:, None] * p
    matrix.ravel()[:: p.size + 1] = variance
    if not is_focal:
        factor, smoothing = loss.logit_scale * loss.logit_scale, loss.label_smoothing
        if (weight := loss.class_weight) is not None:
            factor *= (1 - smoothing) * weight[y] + smoothing * weight.mean()
        if factor != 1:
            matrix *= factor
    size = abs(float(grad[y]))
    b_q_q = 0.0  # b·q²: q² alone may underflow
    if is_focal and q:
        a = size / q
        b_q_q = float(hess[y]) - a * q * p[y]
        matrix *= a
    if floor is not None:
        b_q_q = max(b_q_q, floor * size - float(matrix[y, y]), 0.0)
    if b_q_q and q:
        v /= q
        matrix += (b_q_q * v)[:, None] * v
    return grad, matrix
