"""The constant score with the smallest loss, from which boosting starts.

Each class has a probability of at least 1e-15, so that all scores are finite. A class without
samples has its score at that bound. So does a class whose weights have a negative sum, because the
loss decreases without bound as its score decreases.

A constant gives all samples the same distribution p, and the loss of the batch depends only on sums
over the samples:

* sigmoid losses: one sum of weights for each value of the target, and a function of one score;
* cross-entropy: Σ_c m_c (lse − u_c) + λ·N·lse², with the mass m_c of class c in the targets of all
  N samples. The minimum is at p_c = m_c / Σ m and lse = 0;
* softmax focal loss: Σ_c m_c f(p_c) with f(p) = −(1−p)^γ log p, which is convex. At the minimum,
  −m_c f'(p_c) is the same for all classes within the bounds (Lagrange), and Σ p = 1.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fastce._call import checks, checks_bridges
from fastce._call.layout import Array
from fastce.losses import SoftmaxCrossEntropy, SoftmaxFocalLoss
from fastce.softmax import log_softmax

# The smallest probability of a class. LightGBM also uses 1e-15 for the share of an absent class.
LEAST_SHARE = 1e-15
LEAST_SCORE = math.log(LEAST_SHARE)

# Halvings of the range of scores, after which it is shorter than 1e-14.
HALVINGS = 53

# The number of scores at which a function is evaluated before its range is halved. Their distance
# is about 1, over which a function of log-odds changes little.
SCAN = 65


def start_weights(value: Any, samples: int) -> Array | None:
    """Return float64 weights, (n,), scaled by a power of two so that no sum overflows."""
    array = checks_bridges.given_weight(value)
    if array is None:
        return None
    weight = np.ascontiguousarray(checks.sample_weight(array, (samples,)), np.float64)
    exponent = int(np.frexp(np.abs(weight).max(initial=0))[1])
    return np.ldexp(weight, -exponent)


def sums_by_index(index: Array, weight: Array | None, count: int) -> Array:
    """Return the sum of the weights at each index, (count,).

    NumPy adds sorted weights pairwise, which is more accurate than ``bincount``.
    """
    if weight is None:
        return np.bincount(index, minlength=count).astype(np.float64)
    sums = np.zeros(count)
    order = np.argsort(index, kind="stable")
    there, first = np.unique(index[order], return_index=True)
    if there.size:
        sums[there] = np.add.reduceat(weight[order], first)
    return sums


def least(
    value_and_slope: Callable[[Array], tuple[Array, Array]], low: float, high: float, count: int
) -> Array:
    """Return the minimiser of each of ``count`` functions on [low, high], (count,).

    A scan finds the interval, and bisection the root of the slope. If several values are equal, the
    score closest to 0 is used.
    """
    grid = np.linspace(low, high, SCAN)
    order = np.argsort(np.abs(grid), kind="stable")
    values = [value_and_slope(np.full(count, score))[0] for score in grid[order]]
    best = order[np.argmin(values, axis=0)]
    left, right = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, SCAN - 1)]
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        _, slope = value_and_slope(middle)
        left, right = np.where(slope <= 0, middle, left), np.where(slope >= 0, middle, right)
    result: Array = (left + right) / 2
    return result


def sigmoid_start(loss: Any, target: Array, weight: Array | None) -> Array:
    """Return the scores of the target's columns, (K,)."""
    checks_bridges.weights_of_a_start(weight)
    values, place = np.unique(target, return_inverse=True)
    columns = place.reshape(target.shape).T
    mass = np.stack([sums_by_index(column, weight, len(values)) for column in columns], axis=-1)
    targets = np.broadcast_to(values.astype(np.float64)[:, None], mass.shape)
    loss = replace(loss, reduction="none")

    def value_and_slope(scores: Array) -> tuple[Array, Array]:
        every = np.broadcast_to(scores, mass.shape)
        losses, grad = loss.value_and_grad(every, targets)
        return (mass * losses).sum(axis=0), (mass * grad).sum(axis=0)

    return least(value_and_slope, LEAST_SCORE, -LEAST_SCORE, target.shape[1])


def softmax_start(loss: Any, target: Array, weight: Array | None, classes: int | None) -> Array:
    """Return the scores of the classes, (K,), for labels (n,) or probabilities (n, K)."""
    own = loss.class_weight
    if target.ndim == 2:
        weighted = target if weight is None else target * weight[:, None]
        mass = np.ascontiguousarray(weighted.T, np.float64).sum(axis=1)
    else:
        counted = target != loss.ignore_index
        target, weight = target[counted], None if weight is None else weight[counted]
        if classes is None:
            most = int(target.max()) + 1 if target.size else 0
            classes = len(own) if own is not None else most
        checks.labels_in_range(target, classes)
        mass = sums_by_index(target, weight, classes)
    checks.weights_fit(loss.class_weight_name, own, mass.size)
    if not mass.size:
        return np.zeros(0)
    total = float(len(target)) if weight is None else checks_bridges.weights_of_a_start(weight)
    if isinstance(loss, SoftmaxCrossEntropy):
        mass = (1 - loss.label_smoothing) * mass + loss.label_smoothing * total / mass.size
    if own is not None:
        mass = mass * own
    mass = np.maximum(mass, 0)
    if not mass.any():  # nothing to learn from
        mass += 1
        total = 1.0
    if isinstance(loss, SoftmaxFocalLoss):
        return _focal_start(loss, mass)
    return _cross_entropy_start(loss, mass, total)


def _cross_entropy_start(loss: SoftmaxCrossEntropy, mass: Array, total: float) -> Array:
    u = np.log(np.maximum(mass / mass.sum(), LEAST_SHARE))
    if loss.softcap is not None or loss.z_loss < 0:
        u = _bounded_start(loss, u, mass / total)
    scale = loss.logit_scale
    if not scale:
        return np.zeros_like(u)  # all scores have the same loss
    if loss.softcap is not None:
        u = loss.softcap * np.arctanh(u / loss.softcap)
    start: Array = u / scale
    return start


def _bounded_start(loss: SoftmaxCrossEntropy, u: Array, mass: Array) -> Array:
    """Return ``u`` plus the best shift, clipped to the bounds of its range.

    For a given lse, the minimum of −Σ m_c u_c within the bounds is at u_c = log m_c + shift,
    clipped, so that only the shift remains to be found.
    """
    bound = -LEAST_SCORE if loss.softcap is None else loss.softcap * (1 - LEAST_SHARE)
    free = SoftmaxCrossEntropy(z_loss=loss.z_loss, reduction="sum")

    def value_and_slope(shift: Array) -> tuple[Array, Array]:
        moved = np.clip(u + shift, -bound, bound)
        value, grad = free.value_and_grad(moved, mass)
        return np.array([value]), grad[np.abs(moved) < bound].sum(keepdims=True)

    shift = least(value_and_slope, LEAST_SCORE - bound, bound - LEAST_SCORE, 1)
    bounded: Array = np.clip(u + shift, -bound, bound)
    return bounded


def _focal_start(loss: SoftmaxFocalLoss, mass: Array) -> Array:
    """Bisect for the log-odds t of the largest class at which the probabilities sum to 1.

    With p = σ(t), −f'(p) is −dloss/dt / (p (1−p)), which decreases as t increases. The log-odds of
    the other classes, which have the same multiplier, are therefore found by bisection too.
    """
    alone = replace(loss, alpha=None, ignore_index=-1, reduction="none")

    def multipliers(t: Array, mass: Array) -> Array:
        two = np.stack([t, np.zeros_like(t)], axis=-1)
        _, grad = alone.value_and_grad(two, np.zeros(t.shape, np.int64))
        product: Array = mass * -grad[..., 0] * (2 + 2 * np.cosh(t))
        return product

    def odds_of_others(multiplier: float) -> Array:
        low, high = np.full(others.size, LEAST_SCORE), np.full(others.size, -LEAST_SCORE)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            is_above = multipliers(middle, others) > multiplier
            low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
        return low

    largest = int(np.argmax(mass))
    others = np.delete(mass, largest)
    low, high = LEAST_SCORE, -LEAST_SCORE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        (multiplier,) = multipliers(np.array([middle]), mass[[largest]])
        t = odds_of_others(multiplier)
        # Compare the sum of the others with 1 − p of the largest, which is accurate if it is small.
        is_too_much = (1 / (1 + np.exp(-t))).sum() > 1 / (1 + math.exp(middle))
        low, high = (low, middle) if is_too_much else (middle, high)
    # log p is log σ(t); log_softmax removes the error that bisection leaves in the sum.
    odds = np.insert(t, largest, (low + high) / 2)
    return np.asarray(log_softmax(-np.logaddexp(0, -odds)))
