"""logit_scale and softcap at the ends of the range, and axes that no array has."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from batches import on_grid

import fastce
from fastce import reference

INF = np.inf


@pytest.mark.parametrize("scale", [-1.0, -0.3, 2.5])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_negative_scale_flips_an_infinite_logit(scale, softcap, classes, dtype, rng):
    z = on_grid(rng, (20, classes)).astype(dtype)
    z[3, 1] = -INF if scale > 0 else INF  # excluded
    z[5, 2] = INF if scale > 0 else -INF  # no softmax
    y = rng.integers(classes, size=20)
    y[3], y[5] = 0, 0
    options = {"logit_scale": scale, "softcap": softcap, "reduction": "none"}
    found = fastce.SoftmaxCrossEntropy(**options).value_grad_hess(z, y)
    expected = reference.softmax_cross_entropy(z.astype(np.longdouble), y, **options)
    rtol = {2: 2e-3, 4: 1e-4, 8: 1e-12}[z.itemsize]
    atol = {2: 1e-7, 4: 1e-8, 8: 1e-12}[z.itemsize]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b.astype(float), rtol=rtol, atol=atol)
    assert np.isnan(found[0][5])
    assert found[1][3, 1] == 0


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rows", [4, 9000])
@pytest.mark.parametrize("layout", ["contiguous", "class-major"])
def test_a_scale_that_overflows_float32(dtype, rows, layout):
    """2.5e38 / 0.7 is beyond float32, the difference of two such logits is not."""
    z = np.tile([[2.5e38, 2.375e38, -np.inf]], (rows, 1)).astype(dtype)
    z[1::2, :2] /= 2.0**100
    y = np.ones(rows, np.int64)
    options = {"logit_scale": 1 / 0.7, "reduction": "none"}
    expected = reference.softmax_cross_entropy(z.astype(np.longdouble), y, **options)
    assert np.isfinite(expected[0]).all()
    if layout == "class-major":
        z = np.asfortranarray(z)
    for method in ("value_and_grad", "value_grad_hess"):
        found = getattr(fastce.SoftmaxCrossEntropy(**options), method)(z, y)
        for a, b in zip(found, expected, strict=False):
            rtol = 1e-6 if a.dtype == np.float32 else 4e-3
            np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=rtol)
    capped = fastce.SoftmaxCrossEntropy(softcap=30.0, **options)
    expected = reference.softmax_cross_entropy(z.astype(np.longdouble), y, softcap=30.0, **options)
    np.testing.assert_allclose(capped(z, y), expected[0].astype(float), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_options_beyond_float32(dtype):
    z, y = np.array([[0, 1, 2], [0, 0, -np.inf]], dtype), np.array([0, 1])
    wide = z.astype(np.float64)
    for softcap in (1e30, 1e39, 1e300):  # so large that it does nothing
        loss = fastce.SoftmaxCrossEntropy(softcap=softcap, reduction="none")
        expected = reference.softmax_cross_entropy(wide, y, reduction="none")
        for a, b in zip(loss.value_grad_hess(z, y), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3 if dtype == np.float16 else 1e-6)
    for softcap in (1e-30, 1e-39, 1e-300):  # so small that all logits are equal
        loss = fastce.SoftmaxCrossEntropy(softcap=softcap, reduction="none")
        np.testing.assert_allclose(loss(z, y), np.log([3, 2]), rtol=1e-6)
    for scale in (1e20, 1e38, 1e39, 1e150):
        loss = fastce.SoftmaxCrossEntropy(logit_scale=scale, reduction="none")
        value, grad, hess = loss.value_grad_hess(z, y)
        np.testing.assert_allclose(value[1], np.log(2), rtol=1e-6)
        assert grad[1, 2] == hess[1, 2] == 0
        with np.errstate(over="ignore"):
            assert value[0] == np.asarray(2 * scale, value.dtype)
