"""Second derivatives and initial scores of losses, as boosted trees need them.

The formulas, and where they come from, stand at the top of ``fastce.objectives``. Throughout, v_j
is δ_jy − p_j and q = 1 − p_y; a softmax focal loss has the gradient −a·v and the Hessian
a·(diag(p) − p·pᵀ) + b·v·vᵀ.
"""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fastce import _checks_bridges
from fastce._loss import Array
from fastce.losses import SoftmaxCrossEntropy, SoftmaxFocalLoss
from fastce.softmax import softmax

# XGBoost's own least second derivative. A leaf whose second derivatives add up to 0 gets no value.
LEAST_HESSIAN = 1e-16

# Elements that are worked on while they are in cache: temporaries of the arrays' size would cost
# more than the arithmetic, because the system hands out their memory page by page.
BLOCK = 1 << 14

# The score of a class that no sample has: LightGBM, too, takes its share for 1e-15.
LEAST_SCORE = math.log(1e-15)

# Steps of softmax_start. Each about halves the distance to the solution, or better.
MOST_STEPS = 1000


def one_hot(labels: Array, classes: int, dtype: Any, order: Literal["C", "F"]) -> Array:
    """Return (n, K): 1 at each sample's label and 0 elsewhere."""
    _checks_bridges.labels_in_range(labels, classes)
    result = np.zeros((len(labels), classes), dtype, order)
    result[np.arange(len(labels)), labels] = 1
    return result


# Second derivatives -------------------------------------------------------------------------------


def raise_to_floor(hess: Array, grad: Array, factor: float, floor: float) -> None:
    """Multiply by the factor, and raise to max(floor·|grad|, 1e-16), in place."""
    h, g = hess.ravel(order="K"), grad.ravel(order="K")  # views: both were made in one order
    room = np.empty(min(BLOCK, h.size), h.dtype)
    for first in range(0, h.size, BLOCK):
        block = h[first : first + BLOCK]
        least: Any = LEAST_HESSIAN
        if floor:
            least = np.absolute(g[first : first + BLOCK], out=room[: block.size])
            least *= floor
            np.maximum(least, LEAST_HESSIAN, out=least)
        if factor != 1:
            block *= factor
        np.maximum(block, least, out=block)


def focal_bound(grad: Array, hess: Array, p: Array, labels: Array) -> Array:
    """Return the diagonal bound of a softmax focal loss, (n, K).

    a·|v_j| is |g_j|, and b·q² is h_y − |g_y|·p_y. With r = max(b, 0)·q / a the bound is
    D_j = 2·|g_j|·(1 − p_j + r), with p_y in the place of 1 − p_y at the label.
    """
    size, at = np.abs(grad), labels[:, None].clip(0, p.shape[1] - 1)
    g_y, h_y, p_y = (np.take_along_axis(array, at, axis=1) for array in (size, hess, p))
    r = np.divide(h_y, g_y, out=np.zeros_like(g_y), where=g_y > 0) - p_y
    bound: Array = 1 - p
    np.put_along_axis(bound, at, p_y, axis=1)
    bound += np.maximum(r, 0)
    bound *= size
    bound *= 2
    return bound


def focal_matrix(p: Array, label: int, g_y: float, h_y: float, is_clipped: bool) -> Array:
    """Return the Hessian of one sample's softmax focal loss; with max(b, 0) for b if clipped."""
    matrix, v = _covariance(p, label)
    q = v[label]
    if q == 0:
        return np.zeros_like(matrix)
    b = (h_y - abs(g_y) * p[label]) / q**2
    matrix *= abs(g_y) / q
    matrix += (max(b, 0.0) if is_clipped else b) * np.multiply.outer(v, v)
    return matrix


def cross_entropy_matrix(loss: SoftmaxCrossEntropy, p: Array, label: int) -> Array:
    """Return the Hessian of one sample's cross-entropy, without z_loss and softcap."""
    matrix, _ = _covariance(p, label)
    weight = np.ones(p.size) if loss.class_weight is None else loss.class_weight
    smoothing = loss.label_smoothing
    matrix *= loss.logit_scale**2 * ((1 - smoothing) * weight[label] + smoothing * weight.mean())
    return matrix


def _covariance(p: Array, label: int) -> tuple[Array, Array]:
    """Return diag(p) − p·pᵀ, and v; at the label, both with the digits of 1 − p_y."""
    v = -p
    v[label] = 0.0
    v[label] = -v.sum()
    matrix: Array = -np.multiply.outer(p, p)
    matrix.flat[:: p.size + 1] = p * (1 - p)
    matrix[label, label] = p[label] * v[label]
    return matrix, v


# The constant score with the least loss -----------------------------------------------------------


def sigmoid_start(loss: Any, target: Array, weight: Array | None) -> Array:
    """Bisect for the root of the gradient, in all columns of the target at once.

    There is one: a positive sample's gradient is nowhere above 0, a negative one's nowhere below,
    and the ratio of the two falls as the score rises.
    """
    values, place = np.unique(target, return_inverse=True)
    columns = place.reshape(target.shape).T
    count = np.stack([np.bincount(c, weight, minlength=len(values)) for c in columns], axis=-1)
    targets = np.broadcast_to(values.astype(np.float64)[:, None], count.shape)
    low = np.full(target.shape[1], LEAST_SCORE)
    high = -low
    while np.any(high - low > 1e-12):
        middle = (low + high) / 2
        scores = np.broadcast_to(middle, count.shape)
        _, grad = loss.value_and_grad(scores, targets, sample_weight=count)
        is_above = grad.sum(axis=0) > 0
        low, high = np.where(is_above, low, middle), np.where(is_above, middle, high)
    result: Array = (low + high) / 2
    return result


def softmax_start(loss: Any, labels: Array, weight: Array | None, classes: int | None) -> Array:
    """Step with the diagonal bound, which does not overshoot, from the shares of the classes."""
    counted = labels != loss.ignore_index
    labels, weight = labels[counted], None if weight is None else weight[counted]
    own = loss.class_weight
    if classes is None:
        classes = len(own) if own is not None else int(labels.max(initial=-1)) + 1
    _checks_bridges.labels_in_range(labels, classes)
    count = np.bincount(labels, weight, minlength=classes).astype(np.float64)
    share = count if own is None else count * own
    share = share / (share.sum() or 1.0)
    is_there = share > 0
    start: Array = np.log(np.maximum(share, math.exp(LEAST_SCORE)))
    # One sample of each class, times its count. The ignored class has none, and may be a row.
    loss, every = replace(loss, ignore_index=-1), np.arange(classes)
    for _ in range(MOST_STEPS):
        scores = np.tile(start, (classes, 1))
        _, grad, hess = loss.value_grad_hess(scores, every, sample_weight=count)
        if isinstance(loss, SoftmaxFocalLoss):
            bound = focal_bound(grad, hess, softmax(scores), every)
        else:
            bound = 2 * np.abs(hess)
        slope, curvature = grad.sum(axis=0), bound.sum(axis=0)
        step = np.divide(slope, curvature, out=np.zeros_like(slope), where=is_there)
        start -= step
        if np.abs(step).max(initial=0.0) < 1e-12:
            break
    return start
