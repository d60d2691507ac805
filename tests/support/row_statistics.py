"""The statistics of rows that the kernels find, and whether they are right."""

from __future__ import annotations

import numpy as np
import pytest
from bounds import working

from fastce import reference
from fastce._call import variants

NAMES = reference.RowStatistics._fields


def statistics(z, y, axis=-1, **options):
    """(log_prob, lse, argmax) as token_log_probs has them, and the statistics by name."""
    kernel = variants.core.SoftmaxKernel("cross_entropy", axis=axis, **options)
    loss, lse, argmax, numbers = kernel.read_tokens(z, y, statistics=True, checked=True)
    return (-loss, lse, argmax), dict(zip(NAMES, numbers, strict=True))


def rows_of(kind, shape, rng):
    z = rng.normal(scale=3, size=shape)
    if kind == "sure":
        z[..., shape[-1] // 2] += 25
    elif kind == "holes" and shape[-1] > 1:
        z[rng.random(shape) < 0.3] = -np.inf
        z[..., -1] = 1.0
    elif kind == "ties":
        z = np.round(z / 2)
    elif kind == "far below":  # exponentials whose squares are no normal numbers in float32
        z -= 55
    elif kind.startswith("wide"):  # out of the range of exp
        z *= 40
        if kind == "wide ties":
            z[..., 0] = z[..., -1] = z.max(-1)
    elif kind == "late":  # the largest logits come last, far from the first ones
        z[..., : shape[-1] // 2] -= 50
    return z


KINDS = ["plain", "sure", "holes", "ties", "far below", "wide", "wide ties", "late"]


def assert_statistics_are_right(z, y, kind):
    """Compare those of rows that `rows_of` made with the reference's in extended precision."""
    _, found = statistics(z, y)
    eps = float(np.finfo(working(z.dtype)).eps)
    if np.finfo(np.longdouble).eps >= eps:
        pytest.skip("np.longdouble is no wider than float64")
    wide = z.astype(np.longdouble)
    # An exponential has the rounding of its distance from the largest logit; sums of long double
    # planes are not compensated class by class.
    spread = float(np.ptp(np.where(np.isfinite(wide), wide, wide.max()))) if "wide" in kind else 0.0
    bound = (8 + 2 * min(spread, 100.0) + z.shape[-1] / 256) * eps
    truth = reference.row_statistics(wide, y)
    np.testing.assert_array_equal(found["rank"], truth.rank)
    # What is below 1e-30 of a probability, or its square, may vanish.
    for name in ("top_prob", "entropy", "other_squares"):
        expected = getattr(truth, name).astype(float)
        np.testing.assert_allclose(found[name], expected, rtol=2 * bound, atol=1e-32, err_msg=name)
    mean = truth.entropy  # at least the mean distance
    error = np.abs(found["variance"] - truth.variance)
    assert np.all(error <= 4 * bound * (truth.variance + mean**2) + 1e-30)
