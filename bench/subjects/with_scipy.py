"""SciPy: ``scipy.special`` for the transcendental part, NumPy around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special as special

from bench.problems import Problem
from bench.subjects import Run, not_16_bit, subject
from bench.subjects.with_numpy import from_log_softmax, reduced

SCIPY = "SciPy"


@subject(SCIPY, "softmax_cross_entropy", suits=not_16_bit)
def softmax_cross_entropy(problem: Problem) -> Run:
    z, axis = problem.logits, problem.cell.axis
    return lambda: from_log_softmax(problem, special.log_softmax(z, axis=axis))


@subject(SCIPY, "bce_with_logits")
def bce_with_logits(problem: Problem) -> Run:
    z, y = problem.logits, problem.target

    def run() -> Any:
        losses = -(y * special.log_expit(z) + (1 - y) * special.log_expit(-z))
        return reduced(problem, losses, special.expit(z) - y)

    return run


@subject(SCIPY, "softmax", "log_softmax", "logsumexp")
def softmax(problem: Problem) -> Run:
    function, z = getattr(special, problem.cell.operation), problem.logits
    return lambda: function(z, axis=-1)


@subject(SCIPY, "token_log_probs")
def token_log_probs(problem: Problem) -> Run:
    z, y = problem.logits, problem.target
    rows = np.arange(len(y))

    def run() -> Any:
        lse = special.logsumexp(z, axis=-1)
        return z[rows, y] - lse, lse, z.argmax(axis=-1)

    return run
