"""Errors of what a subject returns: relative, in ULP, and against a derived bound.

The truth is ``fastce.reference`` in ``np.longdouble``, which has 64 bits of significand on x86-64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bench.problems import Problem, floating_dtype, working_dtype
from fastce import reference

Array = np.ndarray[Any, Any]


class Answer(NamedTuple):
    """A value and perhaps a gradient, with the magnitude that errors are relative to.

    The magnitude is the answer itself or, if the answer is a difference of two terms that may be
    equal (p − q with probabilities as target), the larger term.
    """

    value: Array
    gradient: Array | None = None
    gradient_magnitude: Array | None = None


def extended_precision() -> bool:
    """Whether ``np.longdouble`` is wider than float64 on this platform."""
    return bool(np.finfo(np.longdouble).eps < np.finfo(np.float64).eps)


def true_answer(problem: Problem) -> Answer:
    """Per-sample values and unscaled gradient of ``problem``, in extended precision."""
    cell, target = problem.cell, problem.target
    z = problem.logits.astype(np.float64).astype(np.longdouble)
    function = getattr(reference, cell.operation)
    if cell.operation == "token_log_probs":
        return Answer(function(z, target).log_prob)
    if cell.target == "none":
        return Answer(function(z, axis=cell.axis))
    if cell.target == "probabilities":
        target = target.astype(np.longdouble)
    long = {k: np.longdouble(v) if isinstance(v, float) else v for k, v in cell.options.items()}
    value, gradient, _ = function(z, target, reduction="none", **long)
    magnitude = np.abs(gradient)
    if cell.target in ("probabilities", "logits") or cell.label_smoothing:
        mass = target.sum(axis=cell.axis, keepdims=True) if cell.target == "probabilities" else 1
        p = reference.softmax(z, axis=cell.axis) * mass
        magnitude = np.maximum(p, p - gradient)  # the gradient is p − q
    return Answer(value, gradient, magnitude)


def as_longdouble(result: Any) -> Array:
    """Any subject's array or number, exactly (torch tensors and 16-bit types via float64)."""
    if hasattr(result, "detach"):
        result = result.detach().double().numpy()
    values = np.asarray(result)
    if values.dtype.itemsize < 8:
        values = values.astype(np.float64)
    return values.astype(np.longdouble)


def yardsticks(
    problem: Problem,
    truth: Answer,
    of_value: Array | float = 1.0,
    of_gradient: Array | float = 1.0,
) -> dict[str, Yardstick]:
    """What value and gradient are measured against, with the bounds of both."""
    name, size = problem.cell.dtype, np.abs(truth.value)
    found = {"value": Yardstick(truth.value, size, working_dtype(name), of_value)}
    if truth.gradient is not None and truth.gradient_magnitude is not None:
        found["gradient"] = Yardstick(
            truth.gradient, truth.gradient_magnitude, floating_dtype(name), of_gradient
        )
    return found


def errors(result: Any, problem: Problem, truth: Answer) -> dict[str, float | None]:
    """Worst relative error of ``value`` and ``gradient`` in what a run returned.

    None if there is nothing to compare.
    """
    arrays = result if isinstance(result, tuple) else (result,)
    found = {}
    for array, (name, yardstick) in zip(arrays, yardsticks(problem, truth).items(), strict=False):
        found[name] = yardstick.errors(array)[1] if yardstick.truth.size else None
    return found


def ulp_of(x: Array, dtype: np.dtype[Any]) -> Array:
    """The distance between neighbours of ``dtype`` at each x."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(x), float(info.smallest_normal)))
    return np.ldexp(np.asarray(float(info.eps), x.dtype), exponent - 1)


class Yardstick:
    """What a result is measured against, wherever the truth is a normal number of ``dtype``.

    ``magnitude`` is what an error is relative to, ``bound`` what is allowed, in ULP of it.
    """

    def __init__(
        self, truth: Array, magnitude: Array, dtype: np.dtype[Any], bound: Array | float = 1.0
    ):
        smallest_normal = float(ml_dtypes.finfo(dtype).smallest_normal)
        self.counts = np.isfinite(truth) & (np.abs(truth) >= smallest_normal)
        self.truth = truth[self.counts]
        # Errors are small numbers of few digits: float64 is enough for them.
        self.magnitude = magnitude[self.counts].astype(np.float64)
        self.ulp = ulp_of(self.magnitude, dtype)
        allowed = np.broadcast_to(np.asarray(bound, np.float64), truth.shape)[self.counts]
        self.allowed = allowed * self.ulp

    def errors(self, result: Any) -> tuple[float, float, float]:
        """Worst error in ULP, relative, and as a share of the bound; a NaN is infinitely wrong."""
        if not self.truth.size:
            return 0.0, 0.0, 0.0
        actual = as_longdouble(result).reshape(self.counts.shape)[self.counts]
        error = np.abs(actual - self.truth).astype(np.float64)
        error[np.isnan(error)] = np.inf
        ulp, relative, share = (
            float((error / scale).max()) for scale in (self.ulp, self.magnitude, self.allowed)
        )
        return ulp, relative, share


def rounded_differences(problem: Problem) -> tuple[Array | float, Array | float]:
    """Bound the absolute error, in eps / 2, that rounding z_j − max z alone causes in both results.

    With m = max z, d_j = |z_j − m| and an error of at most d_j eps / 2 in z_j − m, to first order:

        log Σ e^z                Σ p_i d_i                           =: D
        p_j                      p_j (d_j + D)
        q = Σ_{i≠y} p_i          Σ_{i≠y} p_i d_i + q D               =: Q
        −log p_y                 D
        Σ_c t_c (lse − z_c)      Σ t_c (d_c + D)
        q^γ (−log p_y)           q^γ (γ (Q / q) ce + D)
        A p_j, A = q^γ (1 + γ p_y ce / q)
                                 |A p_j| (d_j + D + (γ + 1) Q / q + D / ce + (d_y + D))

    The sigmoid losses form no difference.
    """
    cell = problem.cell
    if cell.target == "binary":
        return 0.0, 0.0
    z = problem.logits.astype(np.float64).astype(np.longdouble)
    m = z.max(axis=-1, keepdims=True)
    e = np.exp(z - m)
    p = e / e.sum(axis=-1, keepdims=True)
    d = np.where(e == 0, 0, m - z)
    of_lse = (p * d).sum(axis=-1, keepdims=True)
    of_p = p * (d + of_lse)
    if cell.target == "probabilities":
        t = problem.target.astype(np.longdouble)
        return (t * (m - z + of_lse)).sum(axis=-1), of_p
    label = problem.target[..., None]
    one_hot = np.arange(z.shape[-1]) == label
    q = np.where(one_hot, 0, p).sum(axis=-1, keepdims=True)
    of_q = np.where(one_hot, 0, p * d).sum(axis=-1, keepdims=True) + q * of_lse
    if cell.operation == "softmax_focal_loss":
        gamma = cell.gamma
        d_y = np.take_along_axis(m - z, label, axis=-1)
        p_y = np.take_along_axis(p, label, axis=-1)
        tail = np.where(e == 1, 0, e).sum(-1, keepdims=True) + ((e == 1).sum(-1, keepdims=True) - 1)
        ce = np.log1p(tail) + d_y
        with np.errstate(all="ignore"):
            by_q, by_ce = (np.where(x == 0, 0, y / x) for x, y in ((q, of_q), (ce, of_lse)))
            a = q**gamma * (1 + gamma * np.where(q == 0, 1, p_y * ce / q))
        value = q**gamma * ce * (gamma * by_q + by_ce)
        growth = np.where(one_hot, by_q, d + of_lse) + (gamma + 1) * by_q + by_ce + d_y + of_lse
        return value[..., 0], a * np.where(one_hot, q, p) * growth
    value = of_lse[..., 0]
    if cell.label_smoothing:
        share = cell.label_smoothing / cell.classes
        value = value + share * np.where(np.isinf(z), 0, m - z).sum(axis=-1)
        return value, of_p
    return value, np.where(one_hot, of_q, of_p)
