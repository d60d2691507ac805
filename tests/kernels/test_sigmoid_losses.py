"""The kernels of the sigmoid family against the reference: cases, the whole range, ULP."""

from __future__ import annotations

import numpy as np
import pytest
from batches import confident, on_grid
from bounds import assert_equals_reference, ulps, ulps_allowed
from cases import DTYPES, SIGMOID_CASES

import fastce
from fastce import reference

GAMMAS = (0, 0.5, 1, 2, 3.7)
Z = np.concatenate([np.linspace(-100, 100, 161), [-0.03125, 0.0078125, 0.3125, 12.75]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", SIGMOID_CASES, ids=str)
def test_equals_the_reference(c, dtype, isa):
    assert_equals_reference(c, dtype)


# The whole range ----------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_over_the_whole_range(y, gamma, isa):
    z, y = Z.astype(np.float32), np.full(Z.shape, float(y))
    options = {"gamma": gamma, "reduction": "none"}
    result = fastce.SigmoidFocalLoss(**options).value_grad_hess(z, y)
    truth = reference.sigmoid_focal_loss(z.astype(np.longdouble), y, **options)
    limit = 4e-6 if gamma <= 1 else 4e-5
    for name, actual, exact in zip(("value", "grad"), result, truth, strict=False):
        normal = np.abs(exact) >= np.finfo(np.float32).smallest_normal
        assert normal.sum() > 80
        error = np.abs(actual[normal] - exact[normal]) / np.abs(exact[normal])
        assert error.max() <= limit, name
        assert np.all(np.abs(actual[~normal]) <= np.finfo(np.float32).smallest_normal)
    # The Hessian changes sign: its error counts against the gradient's size.
    scale = np.abs(truth[2]) + np.abs(truth[1])
    error = np.abs(result[2] - truth[2])
    assert np.all(error <= limit * scale * (1 + gamma) + np.finfo(np.float32).smallest_normal)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("logits", [on_grid, confident, lambda rng, shape: np.resize(Z, shape)])
def test_bce_within_four_ulp(logits, dtype, isa, rng):
    z = logits(rng, (1031, 3)).astype(dtype)
    y = rng.integers(2, size=z.shape).astype(dtype)
    wide = z.astype(np.longdouble)
    truth = reference.bce_with_logits(wide, y, reduction="none")
    result = fastce.BCEWithLogits(reduction="none").value_grad_hess(z, y)
    for actual, exact in zip(result, truth, strict=True):
        assert ulps(actual, exact, np.dtype(dtype)) <= ulps_allowed(4, exact, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_keeps_its_digits_to_the_smallest_normal(dtype, isa):
    info = np.finfo(dtype)
    lowest = np.floor(-np.log(float(info.smallest_normal)) * 8) / 8
    z = np.linspace(0, lowest, 97).astype(dtype)
    zeros = np.zeros_like(z)
    value, grad, hess = fastce.BCEWithLogits(reduction="none").value_grad_hess(-z, zeros)
    truth = reference.bce_with_logits(-z.astype(np.longdouble), zeros, reduction="none")
    for actual, exact in zip((value, grad, hess), truth, strict=True):
        assert ulps(actual, exact, np.dtype(dtype)) <= ulps_allowed(4, exact, dtype)
        assert np.all(actual > 0)
