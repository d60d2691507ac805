"""The bench's own yardstick: its formulas against mpmath, and errors that it has to notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.accuracy import errors
from bench.cells import CELLS, Cell
from bench.problems import Kind, Problem, make_problem
from bench.truth import extended_precision, true_answer

mpmath = pytest.importorskip("mpmath")

LOSSES = [
    cell
    for cell in CELLS
    if cell.target != "none" and cell.operation != "token_log_probs" and cell.gradient
    if cell.dtype == "float32" and cell.axis == -1
]
BY_OPERATION = {
    f"{cell.operation}-{cell.target}-{cell.label_smoothing}": replace(
        cell, shape=(7,) if cell.target == "binary" else (7, 5)
    )
    for cell in LOSSES
}


def loss_of_sample(cell: Cell, z: list[Any], target: Any) -> Any:
    """The loss of one sample at 60 digits, from the definition: gradients are taken of this."""
    mp = mpmath.mp
    if cell.target == "binary":
        p_t = 1 / (1 + mp.exp(-z[0] if target == 1 else z[0]))
        if cell.operation == "bce_with_logits":
            return -mp.log(p_t)
        alpha = mp.mpf(cell.alpha)
        alpha_t = alpha if target == 1 else 1 - alpha
        return -alpha_t * (1 - p_t) ** cell.gamma * mp.log(p_t)
    total = mp.fsum(mp.exp(v) for v in z)
    log_p = [mp.log(mp.exp(v) / total) for v in z]
    if cell.operation == "softmax_focal_loss":
        return -((1 - mp.exp(log_p[target])) ** cell.gamma) * log_p[target]
    smoothing = mp.mpf(cell.label_smoothing)
    if cell.target == "labels":
        q = [mp.mpf(int(j == target)) for j in range(len(z))]
    else:
        q = [mp.mpf(float(v)) for v in target]
    return -mp.fsum(
        ((1 - smoothing) * q_j + smoothing / len(z)) * log_p_j
        for q_j, log_p_j in zip(q, log_p, strict=True)
    )


def as_mpf(value: np.longdouble) -> Any:
    """Exactly: a long double is two doubles."""
    high = float(value)
    return mpmath.mpf(high) + mpmath.mpf(float(value - np.longdouble(high)))


@pytest.mark.parametrize("kind", ["normal", "confident"])
@pytest.mark.parametrize("name", BY_OPERATION)
def test_truth_against_mpmath(name: str, kind: Kind) -> None:
    cell = BY_OPERATION[name]
    problem = make_problem(cell, threads=1, reduction="none", kind=kind)
    answer = true_answer(problem)
    assert answer.gradient is not None
    assert answer.gradient_magnitude is not None
    tolerance = 64 * float(np.finfo(np.longdouble).eps)
    logits = problem.logits.reshape(7, -1)
    gradient = answer.gradient.reshape(logits.shape)
    magnitude = answer.gradient_magnitude.reshape(logits.shape)
    with mpmath.workdps(60):
        for i, row in enumerate(logits):
            z = [mpmath.mpf(float(v)) for v in row]
            target = problem.target[i]
            loss = loss_of_sample(cell, z, target)
            assert abs(as_mpf(answer.value[i]) - loss) <= tolerance * loss
            for j in range(len(z)):

                def along(x: Any, j: int = j, z: list[Any] = z, target: Any = target) -> Any:
                    return loss_of_sample(cell, [*z[:j], x, *z[j + 1 :]], target)

                slope = mpmath.diff(along, z[j])
                error = abs(as_mpf(gradient[i, j]) - slope)
                assert error <= tolerance * float(magnitude[i, j])


def numpy_loss(problem: Problem) -> Any:
    from bench.subjects.with_numpy import softmax_cross_entropy

    return softmax_cross_entropy(problem)()


@pytest.mark.skipif(not extended_precision(), reason="long double is double here")
def test_lost_digits_are_seen() -> None:
    """A loss of 0 where the truth is small is an error of 1; a change of one part in 10⁹ shows."""
    cell = replace(BY_OPERATION["softmax_cross_entropy-labels-0.0"], dtype="float64")
    confident = make_problem(cell, 1, "none", "confident")
    truth = true_answer(confident)
    assert truth.gradient is not None
    exact = truth.value.astype(float), truth.gradient.astype(float)
    found = errors(exact, confident, truth)
    assert max(found["value"] or 0, found["gradient"] or 0) < 2.3e-16
    changed = exact[0] * (1 + 1e-9), exact[1] * (1 - 1e-9)
    assert errors(changed, confident, truth) == pytest.approx(
        {"value": 1e-9, "gradient": 1e-9}, rel=1e-3
    )
    found = errors((0 * exact[0], 0 * exact[1]), confident, truth)
    assert found == {"value": 1.0, "gradient": 1.0}
    found = errors((np.nan * exact[0], exact[1]), confident, truth)
    assert found["value"] == np.inf


@pytest.mark.skipif(not extended_precision(), reason="long double is double here")
def test_naive_formula_is_right_where_it_is_not_confident() -> None:
    cell = replace(BY_OPERATION["softmax_cross_entropy-labels-0.0"], dtype="float64")
    problem = make_problem(cell, 1, "none", "normal")
    found = errors(numpy_loss(problem), problem, true_answer(problem))
    assert found["value"] is not None
    assert found["value"] < 1e-12
