"""NumPy by hand: the log-softmax and the sigmoid that most training scripts carry with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.problems import Problem
from bench.subjects import Run, not_16_bit, subject

NUMPY = "NumPy"
Array = np.ndarray[Any, Any]


def _log_softmax(z: Array, axis: int) -> Array:
    shifted = z - z.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def reduced(problem: Problem, losses: Array, gradient: Array | None) -> Any:
    """The loss as the problem asks for it, with the gradient scaled to match."""
    if problem.reduction == "none":
        return losses if gradient is None else (losses, gradient)
    if gradient is None:
        return losses.mean()
    gradient /= losses.size
    return losses.mean(), gradient


def from_log_softmax(problem: Problem, log_p: Array) -> Any:
    """Cross-entropy and its gradient p − q, given log p; also what SciPy's users write."""
    cell, y, axis = problem.cell, problem.target, problem.cell.axis
    if cell.target == "probabilities":
        losses = -(y * log_p).sum(axis=axis)
        return reduced(problem, losses, np.exp(log_p) - y if cell.gradient else None)
    label = np.expand_dims(y, axis)
    smoothing = cell.label_smoothing
    losses = -np.take_along_axis(log_p, label, axis).squeeze(axis)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * log_p.mean(axis=axis)
    if not cell.gradient:
        return reduced(problem, losses, None)
    gradient = np.exp(log_p)
    if smoothing:
        gradient -= smoothing / cell.classes
    at_label = np.take_along_axis(gradient, label, axis)
    np.put_along_axis(gradient, label, at_label - (1 - smoothing), axis)
    return reduced(problem, losses, gradient)


@subject(NUMPY, "softmax_cross_entropy", suits=not_16_bit)
def softmax_cross_entropy(problem: Problem) -> Run:
    z, axis = problem.logits, problem.cell.axis
    return lambda: from_log_softmax(problem, _log_softmax(z, axis))


@subject(NUMPY, "softmax_focal_loss")
def softmax_focal_loss(problem: Problem) -> Run:
    z, y, gamma = problem.logits, problem.target, problem.cell.gamma
    rows = np.arange(len(y))

    def run() -> Any:
        log_p = _log_softmax(z, -1)
        p = np.exp(log_p)
        log_p_y, p_y = log_p[rows, y], p[rows, y]
        rest = 1 - p_y
        losses = -(rest**gamma) * log_p_y
        factor = gamma * rest ** (gamma - 1) * p_y * log_p_y - rest**gamma
        gradient = -factor[:, None] * p
        gradient[rows, y] += factor
        return reduced(problem, losses, gradient)

    return run


@subject(NUMPY, "softmax_kl_divergence")
def softmax_kl_divergence(problem: Problem) -> Run:
    z, t = problem.logits, problem.target

    def run() -> Any:
        log_q, log_p = _log_softmax(z, -1), _log_softmax(t, -1)
        p = np.exp(log_p)
        return reduced(problem, (p * (log_p - log_q)).sum(axis=-1), np.exp(log_q) - p)

    return run


@subject(NUMPY, "bce_with_logits")
def bce_with_logits(problem: Problem) -> Run:
    z, y = problem.logits, problem.target

    def run() -> Any:
        losses = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
        return reduced(problem, losses, 1 / (1 + np.exp(-z)) - y)

    return run


@subject(NUMPY, "sigmoid_focal_loss")
def sigmoid_focal_loss(problem: Problem) -> Run:
    z, y, gamma = problem.logits, problem.target, problem.cell.gamma
    alpha = problem.cell.alpha

    def run() -> Any:
        p = 1 / (1 + np.exp(-z))
        p_t = p * y + (1 - p) * (1 - y)
        bce = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
        scale = (1 - p_t) ** gamma
        if alpha is not None:
            scale *= alpha * y + (1 - alpha) * (1 - y)
        gradient = (2 * y - 1) * scale * (p_t - 1 - gamma * p_t * bce)
        return reduced(problem, scale * bce, gradient)

    return run


@subject(NUMPY, "softmax", "log_softmax", "logsumexp")
def softmax(problem: Problem) -> Run:
    z = problem.logits

    def exponentials() -> tuple[Array, Array]:
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        return e, e.sum(axis=-1, keepdims=True)

    if problem.cell.operation == "softmax":
        return lambda: np.divide(*exponentials())
    if problem.cell.operation == "log_softmax":
        return lambda: _log_softmax(z, -1)
    return lambda: z.max(axis=-1) + np.log(exponentials()[1][:, 0])


@subject(NUMPY, "token_log_probs")
def token_log_probs(problem: Problem) -> Run:
    z, y = problem.logits, problem.target
    rows = np.arange(len(y))

    def run() -> tuple[Array, Array, Array]:
        maximum = z.max(axis=-1)
        lse = maximum + np.log(np.exp(z - maximum[:, None]).sum(axis=-1))
        return z[rows, y] - lse, lse, z.argmax(axis=-1)

    return run
