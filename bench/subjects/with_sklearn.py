"""scikit-learn: the Cython losses behind its linear models and its gradient boosting.

They are private there, but measured because they are the closest relatives. Their mean is taken in
the cheapest way that they offer, with weights of 1/n, which are made beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss

from bench.problems import Problem
from bench.subjects import Run, labels_in_rows, subject

SKLEARN = "scikit-learn"


def _run(problem: Problem, criterion: Any) -> Run:
    z, y = problem.logits, problem.target.astype(problem.logits.dtype)
    options = {"n_threads": problem.threads}
    if problem.reduction == "none":
        if not problem.cell.gradient:
            return lambda: criterion.loss(y, z, **options)
        return lambda: criterion.loss_gradient(y, z, **options)
    weight = np.full(y.shape, 1 / y.size, z.dtype)
    if not problem.cell.gradient:
        return lambda: criterion.loss(y, z, sample_weight=weight, **options).sum()

    def run() -> Any:
        losses, gradient = criterion.loss_gradient(y, z, sample_weight=weight, **options)
        return losses.sum(), gradient

    return run


@subject(SKLEARN, "softmax_cross_entropy", suits=labels_in_rows)
def softmax_cross_entropy(problem: Problem) -> Run:
    return _run(problem, HalfMultinomialLoss(n_classes=problem.cell.classes))


@subject(SKLEARN, "bce_with_logits")
def bce_with_logits(problem: Problem) -> Run:
    return _run(problem, HalfBinomialLoss())
