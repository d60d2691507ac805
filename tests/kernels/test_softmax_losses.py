"""The kernels of the softmax family against the reference, in value, gradient and Hessian."""

from __future__ import annotations

import numpy as np
import pytest
from batches import confident, equal, far_apart, on_grid
from bounds import assert_equals_reference, assert_within, spacing, ulps, ulps_allowed, working
from cases import DTYPES, SOFTMAX_CASES

import fastce
from fastce import reference

CLASSES = (2, 3, 5, 8, 10, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257, 1000, 4097)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", SOFTMAX_CASES, ids=str)
def test_equals_the_reference(c, dtype, isa):
    assert_equals_reference(c, dtype)


# Labels, no options: 4 ULP, wherever the logits' differences are exact ----------------------------


def labels_for(kind, z, rng):
    if kind == "likeliest":
        return np.argmax(z, axis=-1)
    return rng.integers(z.shape[-1], size=z.shape[:-1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("logits", [on_grid, confident, equal, far_apart])
@pytest.mark.parametrize("target", ["likeliest", "random"])
@pytest.mark.parametrize("classes", CLASSES)
def test_four_ulp(classes, target, logits, dtype, isa, rng):
    z = logits(rng, (19, classes)).astype(dtype)
    y = labels_for(target, z, rng)
    wide = z.astype(np.float64 if dtype == "float32" else np.longdouble)
    exact_loss, exact_grad, _ = reference.softmax_cross_entropy(wide, y, reduction="none")
    loss, grad = fastce.SoftmaxCrossEntropy(reduction="none").value_and_grad(z, y)
    limit = ulps_allowed(4, exact_loss, loss.dtype)
    assert ulps(loss, exact_loss, loss.dtype) <= limit
    assert ulps(grad, exact_grad, grad.dtype) <= limit


@pytest.mark.parametrize("soft", ["smoothing", "probabilities"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("classes", [67, 20_001])  # in one piece, and streamed
def test_soft_targets_of_rows_that_end_within_a_vector(classes, masked, soft, isa, rng):
    """The logits rise along one row and fall along another: no chunk has the maximum of all."""
    z = rng.normal(size=(5, classes))
    z[0] += np.linspace(0, 40, classes)
    z[1] -= np.linspace(0, 40, classes)
    call = {}
    y = rng.integers(classes - 9, size=5)
    if masked:
        call["where"] = rng.random(z.shape) < 0.8
        call["where"][:, -3:] = False
        call["where"][np.arange(5), y] = True
    if soft == "probabilities":
        y = rng.random(z.shape) * call.get("where", 1.0)
        y /= y.sum(axis=1, keepdims=True)
    options = {"label_smoothing": 0.1, "reduction": "none"}
    truth = reference.softmax_cross_entropy(z, y, **options, **call)
    found = fastce.SoftmaxCrossEntropy(**options).value_grad_hess(z, y, **call)
    for ours, exact in zip(found, truth, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-11, atol=1e-18)


@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "SoftmaxFocalLoss"])
@pytest.mark.parametrize("margin", [5.0, 16.0, 20.0, 40.0, 85.0])
def test_tails_with_every_option_that_keeps_them(loss, margin, isa):
    """Weights, masks and scale leave the tail of a confident row exact."""
    z = np.array([[0.0, -margin, -margin - 1, 7.0], [-margin, 0.0, 9.0, -margin]], np.float32)
    where = np.array([[True, True, True, False], [True, True, False, True]])
    factor = 1.0 if loss == "SoftmaxFocalLoss" else 2.0  # 0.5 · 2: power of two, hence exact
    options = {} if loss == "SoftmaxFocalLoss" else {"logit_scale": 2.0, "weight": [0.5, 4, 1, 1]}
    call = {"where": where, "sample_weight": [2.0, 0.25]}
    result = getattr(fastce, loss)(reduction="none", **options).value_and_grad(
        z / np.float32(factor), [0, 1], **call
    )
    function = {
        "SoftmaxCrossEntropy": reference.softmax_cross_entropy,
        "SoftmaxFocalLoss": reference.softmax_focal_loss,
    }[loss]
    truth = function(z / factor, [0, 1], reduction="none", **options, **call)
    for actual, exact in zip(result, truth[:2], strict=True):
        assert np.all(exact[where if exact.ndim == 2 else slice(None)] != 0)
        assert ulps(actual, exact, np.dtype(np.float32)) <= 8


# 16-bit logits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", [fastce.SoftmaxCrossEntropy, fastce.SoftmaxFocalLoss])
@pytest.mark.parametrize(
    ("shape", "axis"), [((37, 10), 1), ((9, 100), 1), ((3, 4097), 1), ((3, 21, 70), 1)]
)
def test_16_bit_gradient_is_rounded_once(shape, axis, loss, dtype, isa, rng):
    """The gradient is the float32 one, rounded to nearest."""
    z = on_grid(rng, shape).astype(DTYPES[dtype])
    y = labels_for("random", np.moveaxis(z, axis, -1), rng)
    loss = loss(reduction="none", axis=axis)
    value, grad = loss.value_and_grad(z, y)
    value_32, grad_32 = loss.value_and_grad(z.astype(np.float32), y)
    np.testing.assert_array_equal(value, value_32)
    np.testing.assert_array_equal(
        grad.view(np.uint16), grad_32.astype(DTYPES[dtype]).view(np.uint16)
    )


# Layouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("classes", [3, 10, 70])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, "K", 5, 9), 1),
        ((2, "K", 5, 9), -3),
        (("K", 41), 0),
        ((3, "K", 4, 2, 5), 1),
        ((2, 3, "K", 4), 2),
        ((4, 9, "K"), -1),
        ((2, 2, 3, 2, "K"), 4),
    ],
)
def test_axis(shape, axis, classes, dtype, isa, rng):
    """Any class axis gives what the moved axis gives; the gradient keeps the logits' order."""
    shape = tuple(classes if n == "K" else n for n in shape)
    z = on_grid(rng, shape).astype(DTYPES[dtype])
    moved = np.ascontiguousarray(np.moveaxis(z, axis, -1))
    y = labels_for("random", moved, rng)
    options = {"reduction": "none", "label_smoothing": 0.1}
    value, grad = fastce.SoftmaxCrossEntropy(axis=axis, **options).value_and_grad(z, y)
    value_moved, grad_moved = fastce.SoftmaxCrossEntropy(**options).value_and_grad(moved, y)
    grad_moved = np.moveaxis(grad_moved, -1, axis)
    assert value.shape == y.shape
    assert grad.strides == z.strides
    eps = np.finfo(working(z.dtype)).eps
    np.testing.assert_allclose(value, value_moved, rtol=8 * eps)
    tolerance = 8 * eps + (spacing(grad_moved.astype(float), z.dtype) if dtype == "bfloat16" else 0)
    assert np.all(np.abs(grad.astype(float) - grad_moved.astype(float)) <= tolerance)


@pytest.mark.parametrize("order", ["C", "F", "transposed"])
def test_gradient_keeps_the_memory_order(order, isa, rng):
    z = on_grid(rng, (6, 5, 8)).astype(np.float32)
    z = {"C": z, "F": np.asfortranarray(z), "transposed": z.transpose(1, 0, 2)}[order]
    for axis in (0, 1, 2):
        y = np.zeros(np.delete(z.shape, axis), int)
        grad = fastce.SoftmaxCrossEntropy(axis=axis).value_and_grad(z, y)[1]
        assert grad.strides == z.strides


# softmax, log_softmax, logsumexp ------------------------------------------------------------------


def rows_of_functions(rng, classes, dtype):
    z = np.concatenate([make(rng, (7, classes)) for make in (on_grid, confident, equal)])
    return z.astype(DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 10, 33, 1000])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_functions_equal_the_reference(name, classes, dtype, isa, rng):
    z = rows_of_functions(rng, classes, dtype)
    wide = z.astype(np.float64 if z.dtype.itemsize < 8 else np.longdouble)
    truth = getattr(reference, name)(wide)
    result = getattr(fastce, name)(z)
    eps = np.finfo(working(z.dtype)).eps
    if name == "logsumexp":
        result_dtype = working(z.dtype)
        # max u + log S cancels where they have opposite signs.
        tolerance = 4 * eps * (np.abs(wide.max(axis=-1)) + np.log(classes) + 1e-30)
    else:
        result_dtype = z.dtype
        tolerance = 4 * eps * np.abs(truth)
    assert result.dtype == result_dtype
    assert_within(result, truth, tolerance.astype(float), result_dtype)


def test_functions_of_infinities(isa):
    inf, nan = np.inf, np.nan
    z = np.array([[inf, 0.0], [-inf, -inf], [-inf, 2.0], [inf, -inf], [nan, inf]], np.float32)
    np.testing.assert_array_equal(fastce.logsumexp(z), [inf, -inf, 2.0, inf, nan])
    softmax = fastce.softmax(z)
    np.testing.assert_array_equal(softmax[2], [0, 1])
    assert np.isnan(softmax[[0, 1, 3, 4]]).all()
    log_softmax = fastce.log_softmax(z)
    np.testing.assert_array_equal(log_softmax[2], [-inf, 0])
    assert np.isnan(log_softmax[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [300, 5000])  # of rows; of several chunks
def test_functions_of_infinities_among_many_classes(classes, dtype, isa):
    inf, nan = np.inf, np.nan
    for places, expected in (
        ([(7, inf)], inf),
        ([(7, inf), (8, inf), (classes - 1, inf)], inf),
        ([(7, inf), (classes - 1, nan)], nan),
        ([(7, nan), (classes - 1, inf)], nan),
    ):
        z = np.zeros((2, classes), dtype)
        for place, number in places:
            z[0, place] = number
        np.testing.assert_array_equal(fastce.logsumexp(z), [expected, dtype(np.log(classes))])
        assert np.isnan(fastce.softmax(z)[0]).all()
        loss, grad = fastce.SoftmaxCrossEntropy(reduction="none").value_and_grad(z, [7, 7])
        assert np.isnan(loss[0])
        assert np.isnan(grad[0]).all()
        assert np.isfinite(loss[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [10, 300, 1000, 5000])
def test_any_number_of_maxima(classes, dtype, isa, rng):
    """Few ties and many, in every place; the same loss with a gradient and without."""
    z = rng.choice(np.array([3, -9, -20.5], dtype), (40, classes), p=[0.02, 0.49, 0.49])
    z[0] = z[1] = 3
    z[1, -1] = 2.5
    z[np.arange(2, 40), rng.integers(0, classes, 38)] = 3
    label = rng.integers(0, classes, 40)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    value, grad = loss.value_and_grad(z, label)
    truth = reference.softmax_cross_entropy(z.astype(np.longdouble), label, reduction="none")
    np.testing.assert_array_equal(loss(z, label), value)
    np.testing.assert_allclose(value, truth[0], rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(grad, truth[1], rtol=8 * np.finfo(dtype).eps)
    written = z.copy()
    loss.value_and_grad(written, label, out=written)
    np.testing.assert_array_equal(written, grad)


def test_rows_do_not_depend_on_those_before_them(isa):
    """A factor so small that exponentials are lowered first does not affect other rows."""
    z = np.zeros((33, 10), np.float32)
    z[[6, 32]] = -95
    z[[6, 32], 0] = 0
    factor = np.ones(33, np.float32)
    factor[5], factor[[6, 32]] = 1e-20, 1e6
    label = np.zeros(33, int)
    for target in (label, np.eye(10, dtype=np.float32)[label]):
        loss = fastce.SoftmaxCrossEntropy(reduction="none")
        _, grad = loss.value_and_grad(z, target, grad_output=factor)
        for row in (5, 6, 7, 32):
            one = slice(row, row + 1)
            _, alone = loss.value_and_grad(z[one], target[one], grad_output=factor[one])
            np.testing.assert_array_equal(grad[one], alone)


# token_log_probs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 10, 100, 4097])
def test_token_log_probs(classes, dtype, isa, rng):
    z = on_grid(rng, (3, 11, classes)).astype(DTYPES[dtype])
    y = labels_for("random", z, rng)
    wide = z.astype(np.float64 if z.dtype.itemsize < 8 else np.longdouble)
    truth = reference.token_log_probs(wide, y)
    result = fastce.token_log_probs(z, y)
    assert isinstance(result, fastce.TokenLogProbs)
    assert result._fields == ("log_prob", "lse", "argmax")
    value_dtype = working(z.dtype)
    assert result.log_prob.dtype == result.lse.dtype == value_dtype
    limit = ulps_allowed(4, truth.log_prob, value_dtype)
    assert ulps(result.log_prob, truth.log_prob, value_dtype) <= limit
    tolerance = (
        4 * np.finfo(value_dtype).eps * (np.abs(wide.max(axis=-1)) + np.log(classes) + 1e-30)
    )
    assert_within(result.lse, truth.lse, tolerance.astype(float), value_dtype)
    np.testing.assert_array_equal(result.argmax, truth.argmax)
    assert result.argmax.dtype.kind == "i"


def test_token_log_probs_of_a_tie_and_of_the_impossible(isa):
    z = np.array([[1, 3, 3, 0], [0, -np.inf, 0, 0], [2, 2, 2, 2]], np.float32)
    result = fastce.token_log_probs(z, [0, 1, 3])
    np.testing.assert_array_equal(result.argmax, [1, 0, 0])
    assert result.log_prob[1] == -np.inf
    np.testing.assert_allclose(result.lse[1], np.log(3), rtol=2e-7)


def test_token_log_probs_of_one_row(isa):
    result = fastce.token_log_probs(np.array([20.0, 0.0]), 0)
    assert np.shape(result.log_prob) == ()
    np.testing.assert_allclose(result.log_prob, -2.061153620314381e-09, rtol=1e-15)


def test_token_log_probs_reject_a_label_out_of_range(isa):
    with pytest.raises(IndexError, match=r"7"):
        fastce.token_log_probs(np.zeros((4, 5), np.float32), [0, 1, 7, 2])


# Focal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0, 0.3, 1, 2, 3.7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_focal_is_finite_at_both_ends(gamma, dtype, isa):
    """p_y that rounds to 1, and p_y that underflows."""
    z = np.array([[90, 0, 0], [-90, 0, 0], [1e4, -1e4, 0], [-1e4, 1e4, 0], [0, -np.inf, -np.inf]])
    loss = fastce.SoftmaxFocalLoss(gamma=gamma, reduction="none")
    result = loss.value_grad_hess(z.astype(dtype), [0] * 5)
    truth = reference.softmax_focal_loss(z, [0] * 5, gamma=gamma, reduction="none")
    for actual, exact in zip(result, truth, strict=True):
        assert np.isfinite(actual).all()
        info = np.finfo(dtype)
        tiny = 1000 * info.smallest_normal  # where p_y is below it, its multiples are lost
        np.testing.assert_allclose(actual, exact, rtol=info.eps * (16 + 100 * gamma), atol=tiny)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [5, 100, 257, 1000, 5000])
def test_exponentials_that_round_to_one_are_added_once(dtype, classes, isa, rng):
    """Logits so close that most have an exponential of 1 without being the maximum."""
    z = (1e-30 * rng.standard_normal((9, classes))).astype(dtype)
    z[1::2, ::3] = -20.0
    y = rng.integers(classes, size=9)
    z[np.arange(9), y] = 0
    near = (z > -1).sum(axis=1) + (z < -1).sum(axis=1) * np.exp(-20.0)
    loss, grad = fastce.SoftmaxCrossEntropy(reduction="none").value_and_grad(z, y)
    np.testing.assert_allclose(loss, np.log(near), rtol=4e-7)
    np.testing.assert_allclose(grad.max(axis=1), 1 / near, rtol=4e-7)
    alone = fastce.SoftmaxCrossEntropy(reduction="none")(z, y)
    np.testing.assert_array_equal(alone, loss)


@pytest.mark.parametrize("classes", [3, 6, 10])
def test_focal_hessian_of_a_masked_label(classes, isa, rng):
    """The pivot is then another class, in half of the rows the only one: no rounding error."""
    z, target = rng.uniform(-30, 30, (64, classes)).astype(np.float32), np.full(64, 1)
    where = np.zeros((64, classes), bool)
    where[:, 0] = where[::2, 2] = True
    truth = reference.softmax_focal_loss(z.astype(float), target, reduction="none", where=where)[2]
    assert (truth > 1e-7).any()
    assert (truth == 0).any()
    loss = fastce.SoftmaxFocalLoss(reduction="none")
    for order in "CF":
        hess = loss.value_grad_hess(np.array(z, order=order), target, where=where)[2]
        np.testing.assert_allclose(hess, truth, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [40.0, 80.0, 126.0, 174.0, 200.0, 1000.0])
@pytest.mark.parametrize("classes", [2, 10, 256])
def test_the_sum_of_losses_that_are_as_large_as_they_get(classes, margin, dtype, isa):
    """Several rows share a logarithm, whose argument is the product of their quotients."""
    for rows in (1, 4, 12, 16, 31, 64, 130):
        z = np.full((rows, classes), -margin / 2, dtype)
        z[:, -1] = margin / 2
        y = np.zeros(rows, int)
        for layout in ("C", "F"):
            z = np.asarray(z, order=layout)
            total = fastce.SoftmaxCrossEntropy(reduction="sum").value_and_grad(z, y)[0]
            assert total == pytest.approx(rows * margin, rel=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [2, 10, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_hot_targets_equal_labels_with_z_loss(dtype, classes, order, isa, rng):
    """The small gradient at the target is due to z-loss alone, if the prediction is confident."""
    z = rng.normal(size=(70, classes))
    y = rng.integers(classes, size=70)
    z[np.arange(70), y] += np.linspace(0, 30, 70)
    z = np.array(z, dtype, order=order)
    loss = fastce.SoftmaxCrossEntropy(z_loss=1e-4)
    one_hot = loss.value_grad_hess(z, np.eye(classes, dtype=bool)[y])
    labels = loss.value_grad_hess(z, y)
    for a, b in zip(one_hot, labels, strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * float(np.finfo(dtype).eps))
