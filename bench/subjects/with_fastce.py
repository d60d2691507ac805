"""fastce. Loss objects are made once and outputs are written where the caller says."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import fastce
from bench.cells import LOSSES
from bench.problems import Problem
from bench.subjects import OURS, Run, labels_in_rows, subject

FASTCE, FASTCE_NEW_ARRAY = OURS


def _loss(problem: Problem) -> Any:
    """The loss, on the problem's number of threads."""
    fastce.set_num_threads(problem.threads)
    cell = problem.cell
    return LOSSES[cell.operation](reduction=problem.reduction, **cell.options)


@subject(FASTCE, *LOSSES)
def loss(problem: Problem) -> Run:
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
    criterion, z, y = _loss(problem), problem.logits, problem.target
    return lambda: criterion.value_and_grad(z, y)


@subject(FASTCE, "softmax", "log_softmax", "logsumexp", "token_log_probs")
def function(problem: Problem) -> Run:
    fastce.set_num_threads(problem.threads)
    function, z = getattr(fastce, problem.cell.operation), problem.logits
    if problem.cell.operation == "token_log_probs":
        return partial(function, z, problem.target)
    if problem.cell.operation == "logsumexp":
        return partial(function, z, axis=problem.cell.axis)
    return partial(function, z, axis=problem.cell.axis, out=np.zeros_like(z))
