"""fastce. Loss objects are made once and outputs are written where the caller says."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastce
from bench.problems import Problem
from bench.subjects import OURS, Run, labels_in_rows, subject

FASTCE, FASTCE_NEW_ARRAY = OURS


def _loss(problem: Problem) -> Any:
    cell, reduction = problem.cell, problem.reduction
    if cell.operation == "softmax_cross_entropy":
        # Options at their defaults are not passed: a cell needs only what it uses.
        options: dict[str, Any] = {"reduction": reduction}
        if cell.label_smoothing:
            options["label_smoothing"] = cell.label_smoothing
        if cell.axis != -1:
            options["axis"] = cell.axis
        return fastce.SoftmaxCrossEntropy(**options)
    if cell.operation == "softmax_focal_loss":
        return fastce.SoftmaxFocalLoss(gamma=cell.gamma, reduction=reduction)
    if cell.operation == "bce_with_logits":
        return fastce.BCEWithLogits(reduction=reduction)
    return fastce.SigmoidFocalLoss(gamma=cell.gamma, alpha=cell.alpha, reduction=reduction)


def _use_threads(problem: Problem) -> None:
    if hasattr(fastce, "set_num_threads"):
        fastce.set_num_threads(problem.threads)


@subject(
    FASTCE,
    "softmax_cross_entropy",
    "softmax_focal_loss",
    "bce_with_logits",
    "sigmoid_focal_loss",
)
def loss(problem: Problem) -> Run:
    _use_threads(problem)
    criterion, z, y = _loss(problem), problem.logits, problem.target
    if not problem.cell.gradient:
        return lambda: criterion(z, y)
    out = np.zeros_like(z)
    return lambda: criterion.value_and_grad(z, y, out=out)


@subject(
    FASTCE_NEW_ARRAY,
    "softmax_cross_entropy",
    "bce_with_logits",
    suits=lambda cell: cell.gradient and (cell.target == "binary" or labels_in_rows(cell)),
)
def loss_in_new_array(problem: Problem) -> Run:
    _use_threads(problem)
    criterion, z, y = _loss(problem), problem.logits, problem.target
    return lambda: criterion.value_and_grad(z, y)


@subject(FASTCE, "softmax", "log_softmax")
def softmax(problem: Problem) -> Run:
    _use_threads(problem)
    function, z = getattr(fastce, problem.cell.operation), problem.logits
    out = np.zeros_like(z)
    return lambda: function(z, axis=problem.cell.axis, out=out)


@subject(FASTCE, "logsumexp")
def logsumexp(problem: Problem) -> Run:
    _use_threads(problem)
    function, z = fastce.logsumexp, problem.logits
    return lambda: function(z, axis=problem.cell.axis)


@subject(FASTCE, "token_log_probs")
def token_log_probs(problem: Problem) -> Run:
    _use_threads(problem)
    function, z, y = fastce.token_log_probs, problem.logits, problem.target
    return lambda: function(z, y)
