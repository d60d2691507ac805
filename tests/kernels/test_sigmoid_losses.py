"""The kernels of the sigmoid family against the reference and against 50-digit arithmetic."""

from __future__ import annotations

import mpmath
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


# Against 50 digits --------------------------------------------------------------------------------


def exact_focal(z, y, gamma, alpha):
    """Value, gradient and Hessian of each element, from p and 1 − p and nothing else."""
    with mpmath.workdps(120):
        alpha_t = mpmath.mpf(1 if alpha is None else alpha if y else 1 - alpha)

        def f(x):
            p_t = 1 / (1 + mpmath.exp(-x if y else x))
            return -alpha_t * (1 - p_t) ** mpmath.mpf(gamma) * mpmath.log(p_t)

        rows = [
            [f(x), mpmath.diff(f, x), mpmath.diff(f, x, 2)] for x in map(mpmath.mpf, z.tolist())
        ]
        return np.array(rows, dtype=np.longdouble if z.dtype == np.float64 else float).T


@pytest.fixture(scope="module")
def focal_truth():
    """Computed once: it is the same for every instruction set."""
    known = {}

    def truth(y, gamma):
        if (y, gamma) not in known:
            known[y, gamma] = exact_focal(Z.astype(np.float32), y, gamma, 0.25)
        return known[y, gamma]

    return truth


@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_over_the_whole_range(y, gamma, isa, focal_truth):
    z = Z.astype(np.float32)
    loss = fastce.SigmoidFocalLoss(gamma=gamma, reduction="none")
    result = loss.value_grad_hess(z, np.full(z.shape, float(y)))
    limit = 4e-6 if gamma <= 1 else 4e-5
    for name, actual, exact in zip(("value", "grad"), result, focal_truth(y, gamma), strict=False):
        normal = np.abs(exact) >= np.finfo(np.float32).smallest_normal
        assert normal.sum() > 80
        error = np.abs(actual[normal] - exact[normal]) / np.abs(exact[normal])
        assert error.max() <= limit, name
        assert np.all(np.abs(actual[~normal]) <= np.finfo(np.float32).smallest_normal)
    # The Hessian changes sign: its error counts against the gradient's size.
    scale = np.abs(focal_truth(y, gamma)[2]) + np.abs(focal_truth(y, gamma)[1])
    error = np.abs(result[2] - focal_truth(y, gamma)[2])
    assert np.all(error <= limit * scale * (1 + gamma) + np.finfo(np.float32).smallest_normal)


@pytest.mark.parametrize("y", [0, 1])
def test_bce_over_the_whole_range(y, isa, focal_truth):
    """With γ = 0 and α the focal loss is BCE, times α or 1 − α."""
    z = Z.astype(np.float32)
    result = fastce.BCEWithLogits(reduction="none").value_grad_hess(z, np.full(z.shape, float(y)))
    for actual, exact in zip(result, focal_truth(y, 0) / (0.25 if y else 0.75), strict=True):
        assert ulps(actual, exact, np.dtype(np.float32)) <= 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("logits", [on_grid, confident])
def test_bce_within_four_ulp(logits, dtype, isa, rng):
    z = logits(rng, (1031, 3)).astype(dtype)
    y = rng.integers(2, size=z.shape).astype(dtype)
    wide = z.astype(np.longdouble)
    truth = reference.bce_with_logits(wide, y, reduction="none")
    result = fastce.BCEWithLogits(reduction="none").value_grad_hess(z, y)
    for actual, exact in zip(result, truth, strict=True):
        assert ulps(actual, exact, np.dtype(dtype)) <= ulps_allowed(4, exact, dtype)


@np.errstate(all="ignore")
def naive_bce(z, y):
    p = 1 / (1 + np.exp(-z))
    return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))), p - y


@np.errstate(all="ignore")
def naive_focal(z, y):
    p = 1 / (1 + np.exp(-z))
    p_t = p * y + (1 - p) * (1 - y)
    sign = 1 - 2 * y
    loss = -((1 - p_t) ** 2) * np.log(p_t)
    return loss, sign * (1 - p_t) ** 2 * (1 - p_t - 2 * p_t * np.log(p_t))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.5, 3.0, 15.0])
@pytest.mark.parametrize("name", ["bce", "focal"])
def test_never_worse_than_the_naive_formula(name, scale, dtype, isa, rng):
    z = rng.normal(scale=scale, size=4001).astype(dtype)
    y = rng.integers(2, size=z.shape).astype(dtype)
    wide = z.astype(np.longdouble)
    if name == "bce":
        loss = fastce.BCEWithLogits(reduction="none")
        truth = reference.bce_with_logits(wide, y, reduction="none")
        theirs = naive_bce(z, y)
    else:
        loss = fastce.SigmoidFocalLoss(alpha=None, reduction="none")
        truth = reference.sigmoid_focal_loss(wide, y, alpha=None, reduction="none")
        theirs = naive_focal(z, y)
    for ours, them, exact in zip(loss.value_and_grad(z, y), theirs, truth[:2], strict=True):
        them = np.where(np.isnan(them), np.inf, them)
        limit = ulps_allowed(4, exact, ours.dtype)
        assert ulps(ours, exact, ours.dtype) <= max(limit, ulps(them, exact, ours.dtype))


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


def test_hessian_with_a_focal_exponent(isa):
    """The second derivative at γ ≠ 0, in float64, against differences of 50 digits."""
    z = np.array([-3.0, -0.5, 0.25, 2.0, 6.0])
    for gamma in (0.5, 1.0, 2.0, 3.7):
        for y in (0, 1):
            exact = exact_focal(z, y, gamma, 0.25)[2].astype(float)
            loss = fastce.SigmoidFocalLoss(gamma=gamma, reduction="none")
            hess = loss.value_grad_hess(z, np.full(5, float(y)))[2]
            np.testing.assert_allclose(hess, exact, rtol=2e-13)


# Targets and broadcasting -------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["BCEWithLogits", "SigmoidFocalLoss"])
@pytest.mark.parametrize(
    "kind", ["bool", "int8", "uint8", "int32", "uint64", "float16", "bfloat16", "float64", "list"]
)
def test_target_of_any_type(loss, kind, isa, rng):
    z = on_grid(rng, (17, 9)).astype(np.float32)
    y = rng.integers(2, size=z.shape)
    typed = y.tolist() if kind == "list" else y.astype(DTYPES.get(kind, kind))
    loss = getattr(fastce, loss)(reduction="none")
    for a, b in zip(
        loss.value_grad_hess(z, typed), loss.value_grad_hess(z, y.astype(np.float32)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "shape", [(), (1,), (11,), (1, 11), (7, 1), (7, 11), (5, 1, 1), (5, 7, 1), (5, 1, 11)]
)
@pytest.mark.parametrize("argument", ["pos_weight", "sample_weight", "where"])
def test_small_arguments_broadcast(argument, shape, isa, rng):
    """As if they had been broadcast by hand."""
    z = on_grid(rng, (5, 7, 11)).astype(np.float32)
    y = rng.random(z.shape).astype(np.float32)
    small = (
        rng.integers(4, size=shape) > 1 if argument == "where" else rng.integers(1, 5, shape) / 2
    )
    large = np.ascontiguousarray(np.broadcast_to(small, z.shape))

    def evaluate(x):
        options = {"pos_weight": x} if argument == "pos_weight" else {}
        call = {} if argument == "pos_weight" else {argument: x}
        return fastce.BCEWithLogits(**options).value_and_grad(z, y, **call)

    for a, b in zip(evaluate(small), evaluate(large), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (64, 64), (3, 0, 2), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("loss", ["BCEWithLogits", "SigmoidFocalLoss"])
def test_any_shape(loss, shape, isa, rng):
    z = on_grid(rng, shape).astype(np.float32)
    y = rng.integers(2, size=shape).astype(np.float32)
    value, grad, hess = getattr(fastce, loss)(reduction="none").value_grad_hess(z, y)
    assert np.shape(value) == np.shape(grad) == np.shape(hess) == shape
    flat = getattr(fastce, loss)(reduction="none").value_grad_hess(z.ravel(), y.ravel())
    for a, b in zip((value, grad, hess), flat, strict=True):
        np.testing.assert_array_equal(np.ravel(a), b)
