"""Numba: fused loops as a careful user writes them, with fast-math and the gradient's array
made beforehand."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from bench.problems import Problem
from bench.subjects import Run, labels_in_rows, subject

NUMBA = "Numba"
PARALLEL_FROM = 2**15  # elements: below it, waking the threads costs more than they save


def _compiled(function: Any, problem: Problem) -> Any:
    parallel = problem.threads > 1 and problem.cell.elements >= PARALLEL_FROM
    if parallel:
        numba.set_num_threads(problem.threads)
    return numba.njit(fastmath=True, parallel=parallel)(function)


def _rows(z: Any, y: Any, losses: Any, gradient: Any, scale: Any) -> Any:
    rows, classes = z.shape
    loss_sum = 0.0
    for i in numba.prange(rows):
        maximum = z[i, 0]
        for j in range(1, classes):
            maximum = max(maximum, z[i, j])
        total = scale * 0
        for j in range(classes):
            e = math.exp(z[i, j] - maximum)
            if gradient is not None:  # decided at compile time
                gradient[i, j] = e
            total += e
        losses[i] = math.log(total) + maximum - z[i, y[i]]
        loss_sum += losses[i]
        if gradient is not None:
            factor = scale / total
            for j in range(classes):
                gradient[i, j] *= factor
            gradient[i, y[i]] -= scale
    return loss_sum


def _run(problem: Problem, function: Any, losses: Any, gradient: Any, *options: Any) -> Run:
    z, y, each = problem.logits, problem.target, problem.reduction == "none"
    kernel = _compiled(function, problem)
    scale = z.dtype.type(1 if each else 1 / losses.size)

    def run() -> Any:
        loss_sum = kernel(z, y, losses, gradient, scale, *options)
        loss = losses if each else loss_sum / losses.size
        return loss if gradient is None else (loss, gradient)

    return run


@subject(NUMBA, "softmax_cross_entropy", suits=labels_in_rows)
def softmax_cross_entropy(problem: Problem) -> Run:
    z = problem.logits
    gradient = np.zeros_like(z) if problem.cell.gradient else None
    return _run(problem, _rows, np.zeros(len(z), z.dtype), gradient)


def _bce(z: Any, y: Any, losses: Any, gradient: Any, scale: Any, gamma: Any, alpha: Any) -> Any:
    one = scale / scale
    loss_sum = 0.0
    for i in numba.prange(z.size):
        e = math.exp(-abs(z[i]))
        inverse = one / (one + e)
        p = inverse if z[i] >= 0 else e * inverse
        losses[i] = max(z[i], one * 0) - z[i] * y[i] + math.log1p(e)
        loss_sum += losses[i]
        gradient[i] = (p - y[i]) * scale
    return loss_sum


def _focal(z: Any, y: Any, losses: Any, gradient: Any, scale: Any, gamma: Any, alpha: Any) -> Any:
    one = scale / scale
    loss_sum = 0.0
    for i in numba.prange(z.size):
        margin = z[i] if y[i] > 0 else -z[i]
        e = math.exp(-abs(margin))
        inverse = one / (one + e)
        wrong = e * inverse if margin >= 0 else inverse
        loss = max(-margin, one * 0) + math.log1p(e)
        factor = (alpha if y[i] > 0 else one - alpha) * wrong**gamma
        losses[i] = factor * loss
        loss_sum += losses[i]
        slope = factor * scale * (gamma * (one - wrong) * loss + wrong)
        gradient[i] = -slope if y[i] > 0 else slope
    return loss_sum


@subject(NUMBA, "bce_with_logits", "sigmoid_focal_loss")
def sigmoid_losses(problem: Problem) -> Run:
    z, cell = problem.logits, problem.cell
    function = _bce if cell.operation == "bce_with_logits" else _focal
    alpha = z.dtype.type(0.5 if cell.alpha is None else cell.alpha)
    # An integer power becomes multiplications, if the compiler can see that it is an integer.
    gamma: Any = int(cell.gamma) if cell.gamma == int(cell.gamma) else z.dtype.type(cell.gamma)
    return _run(problem, function, np.zeros_like(z), np.zeros_like(z), gamma, alpha)
