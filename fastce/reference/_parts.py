"""The building blocks of the reference losses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Result = tuple[Any, Array, Array]


def _to_real(values: npt.ArrayLike) -> Array:
    """Convert `values` to float64, or keep longdouble."""
    values = np.asarray(values)
    return values.astype(np.longdouble if values.dtype == np.longdouble else np.float64)


def _left_in(where: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Return which logits `where` leaves in."""
    kept: Array = np.broadcast_to(True if where is None else np.asarray(where, dtype=bool), shape)
    return kept


def _times(weight: Any, value: Array) -> Array:
    """Multiply; a weight of 0 gives 0, even if the value is infinite."""
    product: Array = np.where(np.equal(weight, 0), 0, weight * value)
    return product


def _sum_of_others(x: Array) -> Array:
    """For each j, sum all x of the row except x_j.

    With rest, the sum of all but the largest x, others_j = rest + (largest − x_j). For the largest
    itself that is rest, with nothing lost to rounding.
    """
    largest = np.max(x, axis=-1, keepdims=True)
    is_largest = np.arange(x.shape[-1]) == np.argmax(x, axis=-1)[..., None]
    rest = np.sum(np.where(is_largest, 0, x), axis=-1, keepdims=True)
    others: Array = rest + (largest - x)
    return others


class _Softmax(NamedTuple):
    """A softmax with exact tails. The class axis is the last one, and is kept."""

    exps: Array  # e_j = exp(u_j − max u)
    others: Array  # Σ_{i≠j} e_i
    total: Array  # S = Σ_j e_j
    log_sum_exp: Array  # lse = max u + log S
    surprise: Array  # −log p_j = lse − u_j

    @property
    def p(self) -> Array:
        return self.exps / self.total

    @property
    def one_minus_p(self) -> Array:
        return self.others / self.total


def _softmax_of(u: Array) -> _Softmax:
    """Compute the softmax of each row.

    A row with NaN or +inf, or only −inf, has none, and all of it becomes NaN: inf − inf is NaN.
    """
    largest = np.max(u, axis=-1, keepdims=True)
    exps = np.exp(u - largest)
    others = _sum_of_others(exps)
    tail = np.min(others, axis=-1, keepdims=True)  # S − 1, summed without one exp that is exactly 1
    log_total = np.log1p(tail)
    return _Softmax(exps, others, 1 + tail, largest + log_total, log_total + (largest - u))


def _at_target(x: Array, one_hot: Array) -> Array:
    """Pick x_y from each row."""
    picked: Array = np.sum(np.where(one_hot, x, 0), axis=-1, keepdims=True)
    return picked


def _softplus(x: Array) -> Array:
    """Compute log(1 + exp(x)), which is −log σ(−x)."""
    result: Array = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return result


def _sigmoid(x: Array) -> Array:
    """Compute σ(x) = 1 / (1 + exp(−x)); 1 − σ(x) is σ(−x)."""
    e = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, e) / (1 + e)
    return result


def _reduce(
    loss: Array,
    grad: Array,
    hess: Array,
    *,
    used: Array,
    class_weight: Any = 1,
    sample_weight: npt.ArrayLike | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
) -> Result:
    """Weight the samples and reduce them: mean = Σ wᵢ ℓᵢ / Σ wᵢ.

    `class_weight` is the part of wᵢ that the loss contains already. A sample that is not used, or
    has weight 0, gives 0 whatever it holds, and counts 0 in the denominator.
    """
    weight = _to_real(1.0 if sample_weight is None else sample_weight)
    weight = np.broadcast_to(weight, loss.shape)
    used = used & (weight != 0)
    factor = weight * _to_real(1.0 if grad_output is None else grad_output)
    loss = np.where(used, weight * loss, 0)

    value: Any = loss
    if reduction == "sum":
        value = np.sum(loss).item()
    elif reduction == "mean":
        denominator = normalizer
        if denominator is None:
            denominator = np.sum(np.where(used, weight * class_weight, 0))
        if denominator > 0:
            denominator = np.nan if np.isinf(denominator) else denominator
            value = (np.sum(loss) / denominator).item()
            factor = factor / denominator
        else:
            value = float("nan")
            used = np.zeros_like(used)

    per_logit = (...,) + (None,) * (grad.ndim - loss.ndim)
    used, factor = used[per_logit], factor[per_logit]
    return value, np.where(used, factor * grad, 0), np.where(used, factor * hess, 0)
