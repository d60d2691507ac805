"""PyTorch on the CPU: ``torch.nn.functional`` forward and backward, eager and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.cells import LOSSES, Cell
from bench.problems import Problem
from bench.subjects import Run, not_16_bit, subject

TORCH, COMPILED = "torch", "torch.compile"


def _tensors(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and target, on the problem's number of threads."""
    torch.set_num_threads(problem.threads)
    z, y = problem.logits, torch.from_numpy(problem.target)
    if z.dtype.name == "bfloat16":
        return torch.from_numpy(z.view(np.int16)).view(torch.bfloat16), y
    return torch.from_numpy(z), y


def _formula(problem: Problem) -> Any:
    """A function of (logits, target) that returns the loss."""
    cell, reduction = problem.cell, problem.reduction
    gamma, alpha, smoothing = cell.gamma, cell.alpha, cell.label_smoothing

    def reduce(losses: torch.Tensor) -> torch.Tensor:
        return losses.mean() if reduction == "mean" else losses

    def cross_entropy(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(z, y, reduction=reduction, label_smoothing=smoothing)

    def softmax_focal(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ce = F.cross_entropy(z, y, reduction="none")
        return reduce((1 - torch.exp(-ce)) ** gamma * ce)

    def divergence(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        log_q, log_p = torch.log_softmax(z, -1), torch.log_softmax(t, -1)
        losses = F.kl_div(log_q, log_p, reduction="none", log_target=True)
        return losses.sum() / len(z) if reduction == "mean" else losses.sum(-1)

    def bce(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(z, y, reduction=reduction)

    def sigmoid_focal(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        p = torch.sigmoid(z)
        p_t = p * y + (1 - p) * (1 - y)
        losses = (1 - p_t) ** gamma * F.binary_cross_entropy_with_logits(z, y, reduction="none")
        if alpha is not None:
            losses = losses * (alpha * y + (1 - alpha) * (1 - y))
        return reduce(losses)

    formulas = {
        "softmax_cross_entropy": cross_entropy,
        "softmax_focal_loss": softmax_focal,
        "softmax_kl_divergence": divergence,
        "bce_with_logits": bce,
        "sigmoid_focal_loss": sigmoid_focal,
    }
    return formulas[cell.operation]


def _run(problem: Problem, formula: Any) -> Run:
    z, y = _tensors(problem)
    if not problem.cell.gradient:

        def value() -> Any:
            with torch.inference_mode():
                return formula(z, y)

        return value
    z.requires_grad_()

    def run() -> Any:
        z.grad = None
        loss = formula(z, y)
        loss.backward(None if loss.ndim == 0 else torch.ones_like(loss))
        return loss, z.grad

    return run


@subject(TORCH, *LOSSES)
def eager(problem: Problem) -> Run:
    return _run(problem, _formula(problem))


def _worth_compiling(cell: Cell) -> bool:
    """Plain losses with gradient: a compilation takes seconds, so variants are left to eager."""
    plain = not cell.label_smoothing and cell.target != "probabilities"
    return cell.gradient and plain and not_16_bit(cell)


@subject(COMPILED, *LOSSES, suits=_worth_compiling)
def compiled(problem: Problem) -> Run:
    torch._dynamo.reset()
    return _run(problem, torch.compile(_formula(problem), dynamic=False))


@subject(TORCH, "softmax", "log_softmax", "logsumexp")
def softmax(problem: Problem) -> Run:
    function, (z, _) = getattr(torch, problem.cell.operation), _tensors(problem)
    return lambda: function(z, -1)


@subject(TORCH, "token_log_probs")
def token_log_probs(problem: Problem) -> Run:
    z, y = _tensors(problem)
    label = y[:, None]

    def run() -> Any:
        with torch.inference_mode():
            lse = torch.logsumexp(z, -1)
            return z.gather(-1, label)[:, 0] - lse, lse, z.argmax(-1)

    return run
