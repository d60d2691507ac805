"""Exponentials of moderate logits are computed directly, those of others relative to their maximum.

This is decided for each row, or for each chunk of a long one, by its extremes alone: no neighbour,
no output and no place in memory may change a bit, and neither way may cost accuracy.
"""

from __future__ import annotations

import numpy as np
import pytest
from sizes import SIZES

import fastce
from fastce import reference

BLOCK = SIZES["block rows"]
LONG = SIZES["largest block bytes"] // 4  # more classes of float32 are summed up in chunks
SHAPES = [(BLOCK + 6, 10), (35, 7), (13, 33), (19, 65), (26, 300), (9, LONG // 2)]
SHAPES += [(5, LONG // 2 + 1), (5, LONG + 1), (5, LONG + SIZES["chunk"] + 1)]
EXTREMES = {  # the logits of a moderate row lie between these
    np.float32: (-87.0, 40.0),
    np.float64: (-100.0, 100.0),
}
REFERENCES = {
    fastce.SoftmaxCrossEntropy: reference.softmax_cross_entropy,
    fastce.SoftmaxFocalLoss: reference.softmax_focal_loss,
}


def logits_around_the_bounds(shape, dtype, rng):
    """Rows with extremes far beyond a bound, at it, or an eighth away from it; all on a grid."""
    lowest, largest = EXTREMES[dtype]
    z = rng.integers(-80, 80, shape) / 8
    for row in range(shape[0]):
        edge = (-1, 0, 1)[row // 6 % 3] / 8
        kind = row % 6
        if kind == 0:
            z[row, rng.integers(shape[1])] = 10 * largest
        elif kind == 1:
            z[row] += 10 * lowest
        elif kind == 2:
            z[row, rng.integers(shape[1])] = largest + edge
        elif kind == 3:
            z[row] += lowest + edge - z[row].min()
        elif kind == 4:
            z[row, rng.integers(shape[1])] = lowest + edge
        else:
            z[row, :: shape[1] - 1] = largest, lowest
    return z.astype(dtype)


def batch(shape, dtype, rng):
    """Logits around the bounds, and labels, every other one of which is the likeliest class."""
    z = logits_around_the_bounds(shape, dtype, rng)
    y = rng.integers(shape[1], size=shape[0])
    y[::2] = z[::2].argmax(axis=1)
    return z, y


def assert_accurate(loss, value, grad, z, y):
    """Within 4 ULP, or 12 for focal loss; the arrays are by rows."""
    truth = REFERENCES[loss](z.astype(np.longdouble), y, reduction="none")
    info = np.finfo(z.dtype)
    rtol = info.eps * (4 if loss is fastce.SoftmaxCrossEntropy else 12)
    tiny = 100 * info.smallest_normal
    np.testing.assert_allclose(value, truth[0], rtol=rtol, atol=tiny)
    np.testing.assert_allclose(grad, truth[1], rtol=rtol, atol=tiny)


@pytest.mark.parametrize("dtype", EXTREMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", REFERENCES)
def test_either_side_of_the_bounds(loss, shape, dtype, isa, rng):
    z, y = batch(shape, dtype, rng)
    made = loss(reduction="none")
    value, grad = made.value_and_grad(z, y)
    assert_accurate(loss, value, grad, z, y)
    np.testing.assert_array_equal(made(z, y), value)


@pytest.mark.parametrize("dtype", EXTREMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", REFERENCES)
def test_no_neighbour_changes_a_bit(loss, shape, dtype, isa, rng):
    """Alone, in place, strided, or next to ignored rows of NaN: a row gives the same bits."""
    z, y = batch(shape, dtype, rng)
    made = loss(reduction="none")
    value, grad = made.value_and_grad(z, y)
    for row in range(shape[0]):
        one = slice(row, row + 1)
        for a, b in zip(made.value_and_grad(z[one], y[one]), (value, grad), strict=True):
            np.testing.assert_array_equal(a, b[one])
    written = z.copy()
    made.value_and_grad(written, y, out=written)
    np.testing.assert_array_equal(written, grad)
    wide = np.full((shape[0], shape[1] + 3), np.nan, dtype)
    out = wide.copy()[:, 2:-1]
    wide[:, 1:-2] = z
    again, _ = made.value_and_grad(wide[:, 1:-2], y, out=out)
    np.testing.assert_array_equal(again, value)
    np.testing.assert_array_equal(out, grad)
    z[1::3], y[1::3] = np.nan, -100
    for result, whole in zip(made.value_and_grad(z, y), (value, grad), strict=True):
        expected = whole.copy()
        expected[1::3] = 0
        np.testing.assert_array_equal(result, expected)


PLANES = [
    (70, 2),
    (BLOCK + 22, 3),
    (35, 7),
    (9, 10),
    (SIZES["plane row bytes"] // 4 + 6, 21),
    (70, 65),
    (20, 300),
]


@pytest.mark.parametrize("dtype", EXTREMES)
@pytest.mark.parametrize("shape", PLANES, ids=str)
@pytest.mark.parametrize("loss", REFERENCES)
def test_planes(loss, shape, dtype, isa, rng):
    """Neither way costs accuracy there, and no neighbour changes a bit."""
    z, y = batch(shape, dtype, rng)
    z = np.ascontiguousarray(z.T)
    made = loss(axis=0, reduction="none")
    value, grad = made.value_and_grad(z, y)
    assert_accurate(loss, value, grad.T, z.T, y)
    np.testing.assert_array_equal(made(z, y), value)
    total = loss(axis=0, reduction="sum")(z, y)
    np.testing.assert_allclose(total, value.astype(float).sum(), rtol=2e-7)
    for row in range(0, shape[0], 1 + shape[0] // 50):
        # Twice: a single row's classes are contiguous, and take another path.
        one = made.value_and_grad(np.repeat(z[:, row : row + 1], 2, axis=1), y[[row, row]])
        np.testing.assert_array_equal(one[0][0], value[row])
        np.testing.assert_array_equal(one[1][:, 0], grad[:, row])
    written = z.copy()
    made.value_and_grad(written, y, out=written)
    np.testing.assert_array_equal(written, grad)
    z[:, 1::3], y[1::3] = np.nan, -100
    value[1::3], grad[:, 1::3] = 0, 0
    for result, expected in zip(made.value_and_grad(z, y), (value, grad), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_extreme_factors_beside_others(layout, factor, isa, rng):
    """Some rows' factors are not normal numbers, but their gradients are; others are unaffected."""
    z = rng.normal(size=(30, 10)).astype(np.float32)
    z[::2] += np.where(factor < 1, 30, -60).astype(np.float32)
    y = rng.integers(10, size=30)
    made = fastce.SoftmaxCrossEntropy(reduction="none", axis=1 if layout == "rows" else 0)
    grad_output = np.where(np.arange(30) % 3, np.float32(factor), np.float32(1))
    given = z if layout == "rows" else np.ascontiguousarray(z.T)
    _, grad = made.value_and_grad(given, y, grad_output=grad_output)
    _, plain = made.value_and_grad(given, y)
    if layout == "planes":
        grad, plain = grad.T, plain.T
    assert np.all(plain)
    np.testing.assert_array_equal(grad[::3], plain[::3])
    np.testing.assert_allclose(grad, plain * grad_output[:, None], rtol=4 * 2.0**-23, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sum_of_losses_is_that_of_each(shape, isa, rng):
    """With few classes, the logarithms of several rows are taken together."""
    z, y = batch(shape, np.float32, rng)
    y[1], z[1] = -100, np.nan
    each = fastce.SoftmaxCrossEntropy(reduction="none")(z, y).astype(float)
    total = fastce.SoftmaxCrossEntropy(reduction="sum")
    np.testing.assert_allclose(total(z, y), each.sum(), rtol=2e-7)
    for last in (1, 2):
        np.testing.assert_allclose(total(z[:last], y[:last]), each[:last].sum(), rtol=2e-7)
    z[0, 0] = np.inf
    assert np.isnan(total(z, y))


@pytest.mark.parametrize(("at_target", "elsewhere"), [(-87, 40), (-87, -86), (40, -87), (40, 39)])
@pytest.mark.parametrize("rows", [1, 3, 64, 1000])
def test_the_sum_of_extreme_losses(rows, at_target, elsewhere, isa):
    """The product of their logarithms' arguments would overflow or underflow a double."""
    z = np.full((rows, 10), elsewhere, np.float32)
    z[:, 3] = at_target
    y = np.full(rows, 3)
    value = fastce.SoftmaxCrossEntropy(reduction="sum")(z, y)
    truth = reference.softmax_cross_entropy(z.astype(np.longdouble), y, reduction="sum")
    np.testing.assert_allclose(value, float(truth[0]), rtol=4 * 2.0**-24)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(np.float32, f) for f in (1e-42, 1e-38, 1e-30, 1e30, 3e38)]
    + [(np.float64, f) for f in (1e-310, 1e-290, 1e-270, 1e250)],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_extreme_factors(shape, dtype, factor, isa, rng):
    """A row's factor may not be a normal number, even in double, although its gradients are."""
    z, y = batch(shape, dtype, rng)
    given = np.where(np.arange(shape[0]) % 2, dtype(factor), dtype(1))
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    _, grad = loss.value_and_grad(z, y, grad_output=given)
    _, truth, _ = reference.softmax_cross_entropy(
        z.astype(np.longdouble), y, reduction="none", grad_output=given.astype(np.longdouble)
    )
    info = np.finfo(dtype)
    truth = truth.astype(np.float64)
    np.testing.assert_allclose(grad, truth, rtol=6 * info.eps, atol=2 * float(info.smallest_normal))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exactly_one_beside_the_maximum(shape, isa, rng):
    """With a Hessian, or soft targets: what is left next to a right prediction keeps its digits."""
    z = np.full(shape, -30.0, np.float32)
    z += rng.integers(8, size=shape).astype(np.float32)
    y = rng.integers(shape[1], size=shape[0])
    z[np.arange(shape[0]), y] = 20 + np.arange(shape[0]) / 4  # e^z e^-z may not round to 1
    hot = np.eye(shape[1], dtype=np.float32)[y]
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    for target in (y, hot):
        for result, truth in zip(
            loss.value_grad_hess(z, target),
            reference.softmax_cross_entropy(z.astype(np.longdouble), target, reduction="none"),
            strict=True,
        ):
            np.testing.assert_allclose(result, truth.astype(float), rtol=1e-6, atol=1e-37)
