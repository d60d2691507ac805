"""The statistics of a row, besides its loss, that `fastce.evaluation` adds up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastce.reference._parts import Array, _softmax_of, _times, _to_real


class RowStatistics(NamedTuple):
    r"""Statistics of the softmax p of a row, besides its loss; NaN for a row without a softmax.

    The Brier score of a target y is :math:`(1 − p_y)^2 + \sum_{j≠y} p_j^2`, and the sum of all
    :math:`p_j^2` is ``top_prob**2 + other_squares``. The mean of the logits under p is lse less the
    entropy.
    """

    top_prob: Array
    """The largest probability."""
    entropy: Array
    r""":math:`−\sum_j p_j \log p_j`, in nats."""
    other_squares: Array
    r""":math:`\sum p_j^2` over all classes except the first one of the largest logit."""
    rank: Array
    """How many classes come before the target: larger logits, or equal ones with a higher index."""
    variance: Array
    """The variance of the logits under p."""


@np.errstate(all="ignore")
def row_statistics(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, temperature: float = 1.0
) -> RowStatistics:
    r"""Compute the statistics of each row that an evaluation needs, along the last axis.

    With :math:`u = z/T`, its maximum m, :math:`p = \mathrm{softmax}(u)` and the
    distances :math:`d_j = m − u_j`, so that no terms cancel:

    .. math:: H &= \lse − m + \sum_j p_j d_j \\
              V &= \sum_j p_j (d_j − \bar d)^2, \quad \bar d = \sum_j p_j d_j
    """
    u = _to_real(logits) / temperature
    sm = _softmax_of(u)
    m = np.max(u, axis=-1, keepdims=True)
    distance = np.where(sm.p == 0, 0, m - u)  # a class that is excluded is infinitely far
    mean = np.sum(sm.p * distance, axis=-1, keepdims=True)
    variance = np.sum(sm.p * (distance - mean) ** 2, axis=-1)

    classes = np.arange(u.shape[-1])
    top = classes == np.argmax(u, axis=-1)[..., None]
    label = np.asarray(target)[..., None]
    at_target = np.take_along_axis(u, label, axis=-1)
    before = (u > at_target) | ((u == at_target) & (classes > label))
    has_softmax = np.isfinite(sm.log_sum_exp)[..., 0]
    found = (
        np.max(sm.p, axis=-1),
        np.min(sm.surprise, axis=-1) + mean[..., 0],
        np.sum(_times(~top, sm.p**2), axis=-1),
        np.sum(before, axis=-1),
        variance,
    )
    return RowStatistics(*(np.where(has_softmax, x, np.nan) for x in found))
