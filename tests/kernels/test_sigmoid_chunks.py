"""Chunks of the sigmoid kernels that are not ordinary: other exponentials and loops, the same bits.

An ordinary chunk has logits whose exponentials are normal numbers and, for focal loss, targets of 0
and 1. A call with a mask that hides nothing treats no chunk as ordinary. Only the sum of
losses may differ there: without options, BCE adds up a logarithm of a product.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from sizes import CHUNK

import fastce
from fastce import reference

CHUNKS = 5
LOSSES = {
    "bce": (fastce.BCEWithLogits, reference.bce_with_logits, {}),
    "focal": (fastce.SigmoidFocalLoss, reference.sigmoid_focal_loss, {"gamma": 2.0}),
    "focal of 1.5": (fastce.SigmoidFocalLoss, reference.sigmoid_focal_loss, {"gamma": 1.5}),
}
# Beyond and at the ends of what is ordinary in float32 and float64, either sign.
EXTREME = [87.0, 87.5, -88.0, 103.0, -104.0, 708.0, -709.0, 746.0, np.inf, -np.inf]


def arrays(dtype, rng):
    z = rng.normal(0, 3, CHUNKS * CHUNK + 37).astype(dtype)
    y = (rng.random(z.size) < 0.5).astype(dtype)
    return z, y


def assert_same_as_the_long_way(loss, z, y):
    everywhere = np.ones(z.shape, bool)
    value, grad, hess = loss.value_grad_hess(z, y)
    same_value, same_grad, same_hess = loss.value_grad_hess(z, y, where=everywhere)
    # 3 roundings of exponentials in a row, and half an ULP of either logarithm.
    np.testing.assert_allclose(value, same_value, rtol=3 * np.finfo(z.dtype).eps)
    np.testing.assert_array_equal(grad, same_grad)
    np.testing.assert_array_equal(hess, same_hess)
    assert np.array_equal(loss(z, y), value, equal_nan=True)
    value_1, grad_1 = loss.value_and_grad(z, y)
    assert np.array_equal(value_1, value, equal_nan=True)
    np.testing.assert_array_equal(grad_1, grad)
    in_place = z.copy()
    value_2, out = loss.value_and_grad(in_place, y, out=in_place)
    assert out is in_place
    assert np.array_equal(value_2, value, equal_nan=True)
    np.testing.assert_array_equal(in_place, grad)


@pytest.mark.parametrize("chunk", [0, 2, CHUNKS])
@pytest.mark.parametrize("extreme", [*EXTREME, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_an_extreme_logit(name, dtype, extreme, chunk, isa, rng):
    build, _, options = LOSSES[name]
    z, y = arrays(dtype, rng)
    at = chunk * CHUNK + 11
    z[at] = z[at + 1] = extreme
    y[at], y[at + 1] = 0, 1
    assert_same_as_the_long_way(build(reduction="sum", **options), z, y)


@pytest.mark.parametrize("chunk", [0, 2, CHUNKS])
@pytest.mark.parametrize("soft", [1e-30, 0.25, 0.5, 1 - 2.0**-24])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_a_soft_target(name, dtype, soft, chunk, isa, rng):
    build, truth, options = LOSSES[name]
    z, y = arrays(dtype, rng)
    at = chunk * CHUNK + 11
    y[at], y[at + 5] = soft, -0.0
    assert_same_as_the_long_way(build(reduction="sum", **options), z, y)
    _, grad = build(reduction="sum", **options).value_and_grad(z, y)
    exact = truth(z.astype(np.longdouble), y, reduction="sum", **options)[1]
    # The gradient of a soft target is a sum of terms of either sign, each below 1.
    np.testing.assert_allclose(grad[at], float(exact[at]), rtol=0, atol=32 * np.finfo(dtype).eps)


@pytest.mark.parametrize("chunk", [0, 2, CHUNKS - 1])
@pytest.mark.parametrize("name", LOSSES)
def test_a_chunk_that_is_not_ordinary_adds_up_like_others(name, chunk, isa, rng):
    """Whether a loss is 0 or too small to be seen in a sum makes no difference to its bits."""
    build, _, options = LOSSES[name]
    z, y = arrays(np.float32, rng)
    at = chunk * CHUNK + 11
    y[at] = 1
    values = []
    for right in (86.0, np.inf):
        z[at] = right
        values.append(build(reduction="sum", **options)(z, y))
    assert values[0] == values[1]


@pytest.mark.parametrize("logit", [0.0, -0.0, 1e-9, 30.0, 86.9])
@pytest.mark.parametrize("target", [0, 1])
def test_equal_losses_add_up(logit, target, isa):
    """Sums of up to 1,024 times log 2, whose product no float holds, and of the smallest losses."""
    for count in (64, 512, 1024, 4096, 70_000):
        z, y = np.full(count, logit, np.float32), np.full(count, target, np.float32)
        exact = np.logaddexp(0, -z.astype(np.longdouble) if target else z.astype(np.longdouble))
        value = fastce.BCEWithLogits(reduction="mean")(z, y)
        assert value == pytest.approx(float(exact[0]), rel=4 * 2.0**-24)


@pytest.mark.parametrize("name", LOSSES)
def test_infinities_of_every_chunk(name, isa, rng):
    """If every chunk has infinite logits, as masks make them, the results are the limits."""
    build, truth, options = LOSSES[name]
    z, y = arrays(np.float32, rng)
    z[::97] = -np.inf
    y[::97] = 0
    value, grad = build(reduction="sum", **options).value_and_grad(z, y)
    exact = truth(z.astype(np.longdouble), y, reduction="sum", **options)[0]
    assert value == pytest.approx(float(exact), rel=1e-6)
    np.testing.assert_array_equal(grad[::97], 0.0)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_both_signs_do_not_cancel_in_float32(name, isa, rng):
    loss, _, options = LOSSES[name]
    z, y = arrays(np.float32, rng)
    z[::2] = -1000.0  # a loss of 1,000 and one of -1,000 beside small ones
    y[::2] = 1.0
    weight = np.ones(z.size, np.float32)
    weight[::4] = -1.0
    losses = loss(reduction="none", **options)(z, y, sample_weight=weight)
    total = loss(reduction="sum", **options)(z, y, sample_weight=weight)
    size = math.fsum(np.abs(losses).tolist())
    assert abs(total - math.fsum(losses.tolist())) <= z.size * 2.0**-53 * size
