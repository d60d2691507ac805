"""The right answers in extended precision, written from the formulas and independent of fastce.

``np.longdouble`` has 64 bits of significand on x86-64. Nothing here forms 1 − p: sums over the
other classes and sigmoids of either sign keep the digits of a confident prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.problems import Problem

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answer:
    """A value and perhaps a gradient, with the magnitude that errors are relative to.

    The magnitude is the answer itself, except where the answer is a difference of two terms that
    may be equal (p − q with probabilities as target): there it is the larger term.
    """

    value: Array
    gradient: Array | None = None
    gradient_magnitude: Array | None = None


def extended_precision() -> bool:
    """Whether ``np.longdouble`` is wider than float64 on this platform."""
    return bool(np.finfo(np.longdouble).eps < np.finfo(np.float64).eps)


def true_answer(problem: Problem) -> Answer:
    """Per-sample values and unscaled gradient of ``problem``."""
    z = problem.logits.astype(np.float64).astype(np.longdouble)
    cell = problem.cell
    if cell.target == "binary":
        formula = bce_with_logits if cell.operation == "bce_with_logits" else sigmoid_focal_loss
        return formula(z, problem)
    z = np.moveaxis(z, cell.axis, -1)
    answer = _SOFTMAX_FAMILY[cell.operation](z, problem)
    if answer.gradient is None or answer.gradient_magnitude is None:
        return answer
    return Answer(
        answer.value,
        np.moveaxis(answer.gradient, -1, cell.axis),
        np.moveaxis(answer.gradient_magnitude, -1, cell.axis),
    )


@dataclass(frozen=True)
class _Row:
    """What the softmax formulas share: distance below the maximum, and sums of exponentials."""

    maximum: Array
    below: Array
    exponentials: Array
    log_sum: Array
    total: Array


def _row(z: Array) -> _Row:
    maximum = z.max(axis=-1, keepdims=True)
    below = z - maximum
    exponentials = np.exp(below)
    tail = exponentials.copy()
    np.put_along_axis(tail, z.argmax(axis=-1)[..., None], 0, axis=-1)
    tail_sum = tail.sum(axis=-1, keepdims=True)
    return _Row(maximum, below, exponentials, np.log1p(tail_sum), 1 + tail_sum)


def _of_label(row: _Row, target: Array) -> tuple[Array, Array, Array]:
    """Loss −log p_y, and Σ_{j≠y} p_j without a subtraction, and the indices of y."""
    label = target[..., None]
    loss = row.log_sum - np.take_along_axis(row.below, label, axis=-1)
    others = row.exponentials.copy()
    np.put_along_axis(others, label, 0, axis=-1)
    return loss, others.sum(axis=-1, keepdims=True) / row.total, label


def softmax_cross_entropy(z: Array, problem: Problem) -> Answer:
    row = _row(z)
    p = row.exponentials / row.total
    smoothing = problem.cell.label_smoothing
    if problem.cell.target == "labels" and not smoothing:
        loss, others, label = _of_label(row, problem.target)
        gradient = p.copy()
        np.put_along_axis(gradient, label, -others, axis=-1)
        return Answer(loss[..., 0], gradient, np.abs(gradient))
    if problem.cell.target == "labels":
        q = np.zeros_like(z)
        np.put_along_axis(q, problem.target[..., None], 1, axis=-1)
    else:
        q = np.moveaxis(problem.target, problem.cell.axis, -1).astype(np.longdouble)
    q = (1 - np.longdouble(smoothing)) * q + np.longdouble(smoothing) / z.shape[-1]
    loss = (q * (row.log_sum - row.below)).sum(axis=-1)
    expected = p * q.sum(axis=-1, keepdims=True)
    return Answer(loss, expected - q, np.maximum(expected, q))


def softmax_focal_loss(z: Array, problem: Problem) -> Answer:
    row = _row(z)
    loss, q, label = _of_label(row, problem.target)
    gamma = np.longdouble(problem.cell.gamma)
    p_y = np.exp(-loss)
    factor = -(q**gamma + gamma * p_y * loss * q ** (gamma - 1))
    gradient = -factor * row.exponentials / row.total
    np.put_along_axis(gradient, label, factor * q, axis=-1)
    return Answer((q**gamma * loss)[..., 0], gradient, np.abs(gradient))


def log_softmax(z: Array, problem: Problem) -> Answer:
    row = _row(z)
    return Answer(np.moveaxis(row.below - row.log_sum, -1, problem.cell.axis))


def softmax(z: Array, problem: Problem) -> Answer:
    row = _row(z)
    return Answer(np.moveaxis(row.exponentials / row.total, -1, problem.cell.axis))


def logsumexp(z: Array, problem: Problem) -> Answer:
    row = _row(z)
    return Answer((row.maximum + row.log_sum)[..., 0])


def token_log_probs(z: Array, problem: Problem) -> Answer:
    return Answer(-_of_label(_row(z), problem.target)[0][..., 0])


_SOFTMAX_FAMILY = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax_focal_loss": softmax_focal_loss,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "token_log_probs": token_log_probs,
}


def _margin(z: Array, problem: Problem) -> tuple[Array, Array]:
    """Sign of the label (+1 or −1), and how far the logit is on its side: p_t = σ(margin)."""
    sign = 2 * problem.target.astype(np.longdouble) - 1
    return sign, sign * z


def _softplus_of_minus(x: Array) -> Array:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def bce_with_logits(z: Array, problem: Problem) -> Answer:
    sign, margin = _margin(z, problem)
    gradient = -sign * _sigmoid(-margin)
    return Answer(_softplus_of_minus(margin), gradient, np.abs(gradient))


def sigmoid_focal_loss(z: Array, problem: Problem) -> Answer:
    sign, margin = _margin(z, problem)
    gamma, alpha = np.longdouble(problem.cell.gamma), problem.cell.alpha
    alpha_t = 1 if alpha is None else np.where(sign > 0, alpha, 1 - np.longdouble(alpha))
    wrong, loss = _sigmoid(-margin), _softplus_of_minus(margin)
    scale = alpha_t * wrong**gamma
    gradient = -sign * scale * (gamma * _sigmoid(margin) * loss + wrong)
    return Answer(scale * loss, gradient, np.abs(gradient))
