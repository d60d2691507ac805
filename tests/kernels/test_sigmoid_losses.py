"""The kernels of the sigmoid family against the reference: cases, the whole range, ULP."""

from __future__ import annotations

import numpy as np
import pytest
from batches import confident, on_grid
from bounds import assert_equals_reference, ulps, ulps_allowed
from cases import DTYPES, SIGMOID_CASES

import fastce
from fastce import reference

GAMMAS = (0, 0.5, 1, 1.2, 2, 2.1, 3.7)
Z = np.concatenate([np.linspace(-100, 100, 161), [-0.03125, 0.0078125, 0.3125, 12.75]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", SIGMOID_CASES, ids=str)
def test_equals_the_reference(c, dtype, isa):
    assert_equals_reference(c, dtype)


# The whole range ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_over_the_whole_range(gamma, y, dtype, isa):
    """Also if gamma is no float32 number: its rounding alone was up to 45 ULP of a float32 loss."""
    z, y = Z.astype(dtype), np.full(Z.shape, float(y))
    options = {"gamma": gamma, "reduction": "none"}
    result = fastce.SigmoidFocalLoss(**options).value_grad_hess(z, y)
    truth = reference.sigmoid_focal_loss(z.astype(np.longdouble), y, **options)
    tiny = np.finfo(dtype).smallest_normal
    limit = (4 + gamma) * np.finfo(dtype).eps
    for name, actual, exact in zip(("value", "grad"), result, truth, strict=False):
        normal = np.abs(exact) >= tiny
        assert normal.sum() > 80
        error = np.abs(actual[normal] - exact[normal]) / np.abs(exact[normal])
        assert error.max() <= limit, name
        assert np.all(np.abs(actual[~normal]) <= tiny)
    # The Hessian changes sign: its error counts against the gradient's size.
    scale = np.abs(truth[2]) + np.abs(truth[1])
    error = np.abs(result[2] - truth[2])
    assert np.all(error <= limit * scale * (1 + gamma) + tiny)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gamma", [1.5, 3.0, 5.0])
@pytest.mark.parametrize("smoothing", [0.1, 0.01, 0.001])
def test_focal_loss_of_smoothed_targets(smoothing, gamma, dtype, isa, rng):
    """An error of r becomes gamma times as large in its power, but not that of its logarithm."""
    z, y = rng.normal(0, 5, 5000).astype(dtype), rng.integers(0, 2, 5000)
    options = {"gamma": gamma, "label_smoothing": smoothing, "reduction": "none"}
    true = reference.sigmoid_focal_loss(z.astype(np.longdouble), y, **options)[0]
    found = fastce.SigmoidFocalLoss(**options)(z, y)
    bound = (4 + 2 * gamma) * np.finfo(dtype).eps
    np.testing.assert_allclose(found, true.astype(float), rtol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_next_to_no_smoothing_counts_for_both_targets(dtype, isa):
    """1 - smoothing / 2 rounds to 1."""
    smoothing = 1e-8 if dtype == np.float32 else 1e-17
    for gamma in (0.0, 1.0, 2.0):
        loss = fastce.SigmoidFocalLoss(
            gamma=gamma, alpha=None, label_smoothing=smoothing, reduction="none"
        )
        value, grad = loss.value_and_grad(np.array([60, -60], dtype), [1, 0])
        assert value[0] == value[1] > 0
        assert grad[0] == -grad[1] != 0
        if gamma == 0:
            np.testing.assert_allclose(value[0], 60 * smoothing / 2, rtol=1e-6)
            np.testing.assert_allclose(grad[0], smoothing / 2, rtol=1e-6)
