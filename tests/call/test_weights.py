"""Weights and normalizers: which are refused, their signs, and what a mean divides by."""

from __future__ import annotations

import math
import re

import ml_dtypes
import numpy as np
import pytest
from cases import FUNCTIONS, LOSSES, SIGMOID, SOFTMAX, small_batch
from processes import peak
from refusals import CLASSES, ROWS, refuse

import fastce
from fastce import reference

INF, NAN = np.inf, np.nan


def weights_for(loss, numbers):
    """One number per row, in the shape that the loss takes."""
    weight = np.asarray(numbers, float)
    return weight if loss in SOFTMAX else np.repeat(weight[:, None], 3, axis=1)


@pytest.mark.parametrize("layout", ["contiguous", "strided", "list"])
@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "SoftmaxFocalLoss"])
def test_equal_weights_change_no_digit_of_a_long_mean(loss, layout):
    """0.1 a million times: added one by one, the sum would be 1e-11 off."""
    rows = 1_000_000
    z = np.tile([[0.5, -1.25]], (rows, 1))
    y = np.zeros(rows, np.int64)
    plain = getattr(fastce, loss)()(z, y)
    weight = np.full(rows, 0.1)
    if layout == "strided":
        weight = np.repeat(weight, 2)[::2]
    elif layout == "list":
        weight = weight.tolist()
    value, grad = getattr(fastce, loss)().value_and_grad(z, y, sample_weight=weight)
    assert value == pytest.approx(plain, rel=4e-16 * 4)
    assert math.fsum(grad[:, 0]) == pytest.approx(rows * grad[0, 0], rel=1e-12)
    if loss == "SoftmaxCrossEntropy":
        by_class = fastce.SoftmaxCrossEntropy(weight=[0.1, 0.1])
        assert by_class(z, y) == pytest.approx(plain, rel=4e-16 * 4)
        both = by_class(z, y, sample_weight=weight)
        assert both == pytest.approx(plain, rel=4e-16 * 4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("numbers", "total"),
    [
        ([1, -1, 2, -2, 0, 0], "0.0"),
        ([1, -1, 0, 0, 0, -0.5], "-"),
        ([-1, -2, -1, -0.5, 0, -1], "-"),  # each counts, though none is above 0
    ],
)
def test_a_mean_wants_a_positive_sum(loss, numbers, total):
    z, y = small_batch(loss)
    weight = weights_for(loss, numbers)
    out, losses = np.full_like(z, 12345), np.full(weight.shape, 54321, np.float32)
    made = getattr(fastce, loss)()
    for call in (
        lambda: made(z, y, sample_weight=weight),
        lambda: made.value_and_grad(z, y, sample_weight=weight, out=out),
        lambda: made.value_and_grad(z, y, sample_weight=weight[::-1][::-1], out=out),
    ):
        with pytest.raises(ValueError, match="normalizer") as error:
            call()
        assert total in str(error.value)
        assert "reduction='sum'" in str(error.value)
    assert (out == 12345).all()
    # Neither a normalizer nor another reduction asks for a positive sum.
    truth = getattr(reference, FUNCTIONS[loss])
    for options, call in (({}, {"normalizer": 2.0}), ({"reduction": "sum"}, {})):
        value, grad = getattr(fastce, loss)(**options).value_and_grad(
            z, y, sample_weight=weight, **call
        )
        expected = truth(z.astype(float), y, sample_weight=weight, **options, **call)
        assert value == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-7)
    each = getattr(fastce, loss)(reduction="none")(z, y, sample_weight=weight, loss_out=losses)
    assert each is losses
    expected = truth(z.astype(float), y, sample_weight=weight, reduction="none")[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_of_zero_are_nan_however_signed(loss):
    z, y = small_batch(loss)
    weight = weights_for(loss, [0.0, -0.0, 0.0, 0.0, -0.0, 0.0])
    value, grad = getattr(fastce, loss)().value_and_grad(z, y, sample_weight=weight)
    assert math.isnan(value)
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_weights_of_ignored_rows_do_not_count(loss):
    """A weight of −1 on an ignored row does not count; a mean of nothing is NaN, not an error."""
    z, y = small_batch(loss)
    y = np.where(np.arange(6) == 2, -100, y)
    weight = weights_for(loss, [0, 0, -1, 0, 0, 0])
    assert math.isnan(getattr(fastce, loss)()(z, y, sample_weight=weight))


# What is a weight, and what is none ---------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_sample_weights_out_of_range(loss, bad, isa):
    z, y = small_batch(loss)
    weight = np.ones(y.shape)
    weight.flat[4] = bad
    refuse(ValueError, "sample_weight", loss, z, y, sample_weight=weight)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("1", TypeError),
        (1j, TypeError),
        (object(), TypeError),
        (np.ones(ROWS, object), TypeError),
        (np.ones(ROWS, "M8[s]"), TypeError),
        (np.zeros(ROWS, [("x", "f4")]), TypeError),
        (np.ma.ones(ROWS), TypeError),
        ([[1.0], [1.0, 2.0]], ValueError),
        (NAN, ValueError),
        (INF, ValueError),
        (-INF, ValueError),
        (np.ones(ROWS + 1), ValueError),
        (np.ones((1, 1, ROWS, CLASSES)), ValueError),
        (np.ones(0), ValueError),
    ],
    ids=lambda x: re.sub(" at 0x.*", "", str(x)),
)
def test_sample_weights_of_every_wrong_kind(loss, bad, error):
    refuse(error, "sample_weight", loss, *small_batch(loss), sample_weight=bad)


@pytest.mark.parametrize(
    "good", [True, 1, np.uint64(1), np.float16(1), np.ones((), ml_dtypes.bfloat16), [1.0] * CLASSES]
)
@pytest.mark.parametrize("loss", SIGMOID)
def test_sample_weights_of_every_right_kind(loss, good):
    z, y = small_batch(loss)
    expected = getattr(fastce, loss)().value_and_grad(z, y)
    value, grad = getattr(fastce, loss)().value_and_grad(z, y, sample_weight=good)
    assert value == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4", ">f8", ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [NAN, -NAN, INF, -INF])
def test_one_bad_weight_among_good_ones(dtype, bad, isa):
    """It is found in every position, also within a vector of NumPy's."""
    for count in (1, 2, 9, 33, 70):
        for position in range(count):
            weight = np.ones(count, dtype)
            weight[position] = bad
            z = np.zeros((count, 1), np.float32)
            with pytest.raises(ValueError, match=rf"sample_weight .* at position {position}$"):
                fastce.SoftmaxCrossEntropy()(z, np.zeros(count, int), sample_weight=weight)


@pytest.mark.parametrize("loss", SIGMOID)
def test_weights_are_checked_without_an_array_of_their_size(loss):
    """With a stride of 0, a weight repeats without end; other weights are checked in place."""
    huge = (2, 1 << 40)
    logits, target = np.broadcast_to(np.float32(0), huge), np.broadcast_to(np.False_, huge)
    for bad in (-INF, NAN, INF):
        weight = np.broadcast_to([[1.0], [bad]], huge)
        with pytest.raises(ValueError, match=r"finite, got .* at position \(1, 0\)"):
            getattr(fastce, loss)()(logits, target, sample_weight=weight)
    weight = np.broadcast_to([[1.0], [-2.0]], huge)
    with pytest.raises(ValueError, match=rf"positive, got {-(2.0**40)}"):
        getattr(fastce, loss)()(logits, target, sample_weight=weight)
    weight = np.ones(1 << 20, np.float32)
    made = getattr(fastce, loss)(reduction="sum")
    assert peak(lambda: made(weight, weight, sample_weight=weight)) < weight.nbytes / 2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "bad", [0.0, -1.0, NAN, INF, "3", [3.0], np.ones(ROWS), 1j, 10**400], ids=str
)
def test_normalizers_of_every_wrong_kind(loss, bad):
    error = ValueError if isinstance(bad, int | float) else TypeError
    refuse(error, "normalizer", loss, *small_batch(loss), normalizer=bad)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_long_integers_are_rounded_alike_at_every_position(dtype, isa):
    """Twice, by way of float64: there is no instruction for less."""
    weight = np.full(33, 2**61 + 2**37 + 1, dtype)
    z, y = np.zeros((2, 33), np.float32)
    loss = fastce.BCEWithLogits(reduction="none")(z, y, sample_weight=weight)
    assert (loss == loss[0]).all()
