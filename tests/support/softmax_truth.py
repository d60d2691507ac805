"""The truth for softmax, log_softmax and logsumexp, in extended precision."""

from __future__ import annotations

import numpy as np
from bounds import working

INF, NAN = np.inf, np.nan


def truth(name, logits, axis, mask=None):
    """The formulas in extended precision; logsumexp keeps the axes."""
    z = np.asarray(logits).astype(np.longdouble)
    axes = tuple(range(z.ndim)) if axis is None else axis
    if mask is not None:
        z = np.where(mask, z, -INF)
    with np.errstate(all="ignore"):
        top = np.max(z, axis=axes, keepdims=True, initial=-INF)
        top = np.where(np.isfinite(top), top, 0)
        log_total = np.log(np.exp(z - top).sum(axis=axes, keepdims=True))
        if name == "logsumexp":
            return top + log_total
        log_p = np.where(np.isfinite(log_total), (z - top) - log_total, NAN)
        return np.exp(log_p) if name == "softmax" else log_p


def assert_close(result, expected, dtype):
    eps = max(np.finfo(working(np.dtype(dtype))).eps, resolution(dtype))
    assert np.shape(result) == np.shape(expected)
    result = np.asarray(result).astype(float)
    np.testing.assert_allclose(result, expected.astype(float), rtol=16 * eps, atol=16 * eps)


def resolution(dtype):
    return {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(np.dtype(dtype).name, 0)
