"""linear_cross_entropy: the loss on the whole logits and the chain rule, in little memory."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from processes import peak

import fastce
from fastce import linear
from fastce.linear import linear_cross_entropy

CLASSES = 37


@pytest.fixture(params=["one chunk", "many chunks"])
def chunks(request, monkeypatch):
    if request.param == "many chunks":
        monkeypatch.setattr(linear, "CHUNK_BYTES", 20 * CLASSES * 4)
        monkeypatch.setattr(linear, "FEWEST_ROWS", 1)
        monkeypatch.setattr(linear, "BLOCK_BYTES", 500)


def layer(rng, dtype, *shape):
    hidden = rng.normal(size=(*shape, 8)).astype(dtype)
    weight = rng.normal(size=(CLASSES, 8)).astype(dtype)
    bias = rng.normal(size=CLASSES).astype(dtype)
    return hidden, weight, bias, rng.integers(0, CLASSES, shape)


def through_logits(hidden, weight, target, bias, loss, **call):
    """The same in float64, with whole logits."""
    x, w = hidden.astype(np.float64), weight.astype(np.float64)
    added = 0 if bias is None else bias.astype(np.float64)
    value, grad = loss.value_and_grad(x @ w.T + added, target, **call)
    rows = grad.reshape(-1, CLASSES)
    grad_bias = None if bias is None else rows.sum(axis=0)
    return value, grad @ w, rows.T @ x.reshape(-1, x.shape[-1]), grad_bias


def assert_same(results, expected, dtype):
    relative = 1e-12 if dtype == np.float64 else 3e-5
    assert (results[3] is None) == (expected[3] is None)
    for result, truth in zip(results, expected, strict=True):
        if truth is not None:
            scale = np.max(np.abs(truth), initial=0)
            np.testing.assert_allclose(result, truth, rtol=relative, atol=relative * scale)
            assert np.shape(result) == np.shape(truth)
    for grad in results[1:]:
        assert grad is None or grad.dtype == dtype


LOSSES = [
    fastce.SoftmaxCrossEntropy(),
    fastce.SoftmaxCrossEntropy(label_smoothing=0.1, z_loss=0.02),
    fastce.SoftmaxCrossEntropy(softcap=4.0, logit_scale=0.7, ignore_index=3),
    fastce.SoftmaxCrossEntropy(weight=np.linspace(0, 2, CLASSES), label_smoothing=0.2),
    fastce.SoftmaxFocalLoss(gamma=1.5, alpha=np.linspace(0.5, 2, CLASSES)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_is_the_loss_on_the_logits(loss, reduction, dtype, chunks, rng):
    loss = dataclasses.replace(loss, reduction=reduction)
    hidden, weight, bias, target = layer(rng, dtype, 3, 50)
    target[0, ::3] = loss.ignore_index
    for b in (None, bias):
        results = linear_cross_entropy(hidden, weight, target, b, loss=loss)
        assert_same(results, through_logits(hidden, weight, target, b, loss), dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, bool])
def test_one_hot(dtype, chunks, rng):
    hidden, weight, bias, labels = layer(rng, np.float64, 90)
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    expected = linear_cross_entropy(hidden, weight, labels, bias, loss=loss)
    one_hot = np.eye(CLASSES, dtype=dtype)[labels]
    results = linear_cross_entropy(hidden, weight, one_hot, bias, loss=loss)
    assert_same(results, expected, np.float64)


def test_probabilities_of_any_strides_are_not_copied_whole(rng):
    hidden, weight, _, _ = layer(rng, np.float64, 6, 7)
    target = fastce.softmax(rng.normal(size=(7, 6, CLASSES))).swapaxes(0, 1)
    assert_same(
        linear_cross_entropy(hidden, weight, target),
        linear_cross_entropy(hidden, weight, target.copy()),
        np.float64,
    )
    hidden = rng.normal(size=(40, 50, 2)).astype(np.float32)
    weight = rng.normal(size=(20_000, 2)).astype(np.float32)
    target = np.broadcast_to(np.float32(1 / 20_000), (50, 40, 20_000)).swapaxes(0, 1)  # 160 MB
    linear_cross_entropy(hidden[:1, :1], weight, target[:1, :1])
    assert peak(lambda: linear_cross_entropy(hidden, weight, target)) < 3 * linear.CHUNK_BYTES


@pytest.mark.parametrize("kind", ["plain", "ignored", "float16", "swapped"])
def test_memory_if_there_are_more_features_than_classes(kind, rng):
    """Chunks by the number of classes alone would hold all rows, and more than one copy of them."""
    hidden = np.zeros((300, 100, 1024), np.float16 if kind == "float16" else np.float32)  # 123 MB
    if kind == "swapped":
        hidden = hidden.swapaxes(0, 1)
    weight = np.zeros((16, 1024), hidden.dtype)
    target = np.zeros(hidden.shape[:-1], int)
    if kind == "ignored":
        target[0, 0] = -100
    linear_cross_entropy(hidden[:1, :1], weight, target[:1, :1])
    results = hidden.nbytes + weight.nbytes
    assert peak(lambda: linear_cross_entropy(hidden, weight, target)) < results + (110 << 20)


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_sample_weight_and_normalizer(soft, reduction, chunks, rng):
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=0.1, reduction=reduction)
    hidden, weight, bias, target = layer(rng, np.float64, 3, 50)
    if soft:
        target = fastce.softmax(rng.normal(size=(3, 50, CLASSES)))
    signed = rng.normal(0.5, 1, size=50)  # broadcasts; some are negative
    signed[::7] = 0
    assert signed.sum() > 0
    assert (signed < 0).any()
    for call in ({"sample_weight": signed}, {"sample_weight": signed, "normalizer": 7.0}):
        results = linear_cross_entropy(hidden, weight, target, bias, loss=loss, **call)
        expected = through_logits(hidden, weight, target, bias, loss, **call)
        assert_same(results, expected, np.float64)


def test_microbatches_add_up(rng):
    hidden, weight, bias, target = layer(rng, np.float64, 90)
    factor = rng.uniform(size=90)
    whole = linear_cross_entropy(hidden, weight, target, bias, sample_weight=factor)
    parts = [
        linear_cross_entropy(
            hidden[rows],
            weight,
            target[rows],
            bias,
            sample_weight=factor[rows],
            normalizer=factor.sum(),
        )
        for rows in (slice(0, 40), slice(40, 90))
    ]
    assert sum(part[0] for part in parts) == pytest.approx(whole[0], rel=1e-14)
    np.testing.assert_allclose(np.concatenate([part[1] for part in parts]), whole[1], rtol=1e-12)
    for i in (2, 3):
        np.testing.assert_allclose(parts[0][i] + parts[1][i], whole[i], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", ["ignored", "weight 0", "weight 0, probabilities"])
def test_rows_that_do_not_count_are_not_used(how, dtype, chunks, rng):
    hidden, weight, bias, target = layer(rng, dtype, 90)
    kept = rng.random(90) < 0.4
    used, call = np.flatnonzero(kept), {"sample_weight": kept.astype(np.float64)}
    if how == "ignored":
        target, call = np.where(kept, target, -100), {}
    elif how == "weight 0, probabilities":
        target = fastce.softmax(rng.normal(size=(90, CLASSES)))
    spoilt = np.where(kept[:, None], hidden, np.nan).astype(dtype)
    expected = linear_cross_entropy(hidden[used], weight, target[used], bias)
    value, grad_hidden, *grads = linear_cross_entropy(spoilt, weight, target, bias, **call)
    assert_same((value, grad_hidden[used], *grads), expected, dtype)
    assert not np.delete(grad_hidden, used, axis=0).any()
    if how == "ignored":
        value, *grads = linear_cross_entropy(spoilt, weight, np.full(90, -100), bias)
        assert np.isnan(value)
        assert not any(grad.any() for grad in grads)


def test_sums_of_weights(rng):
    hidden, weight, bias, target = layer(rng, np.float64, 4)
    for factor in (np.zeros(4), np.array([0, 0, 0, 0])):
        value, *grads = linear_cross_entropy(hidden, weight, target, bias, sample_weight=factor)
        assert np.isnan(value)
        assert not any(grad.any() for grad in grads)
    value, *grads = linear_cross_entropy(hidden, weight, target, bias, sample_weight=[1e308] * 4)
    assert np.isnan(value)
    assert all(np.isnan(grad).all() for grad in grads)
    for factor, total in (([1, -1, 1, -1], "0.0"), ([-1, -1, -1, 1], "-2.0")):
        with pytest.raises(ValueError, match=f"sum of the weights.*got {total}.*normalizer"):
            linear_cross_entropy(hidden, weight, target, sample_weight=factor)
        call = {"sample_weight": factor, "normalizer": 2.0}
        loss = fastce.SoftmaxCrossEntropy()
        results = linear_cross_entropy(hidden, weight, target, bias, **call)
        assert_same(results, through_logits(hidden, weight, target, bias, loss, **call), np.float64)


def test_labels_of_weight_0_do_not_count(chunks, rng):
    """With label smoothing, their rows have losses, but no mean."""
    hidden, weight, bias, _ = layer(rng, np.float64, 90)
    class_weight = np.ones(CLASSES)
    class_weight[5] = 0
    loss = fastce.SoftmaxCrossEntropy(weight=class_weight, label_smoothing=0.1)
    target = np.full(90, 5)
    value, *grads = linear_cross_entropy(hidden, weight, target, bias, loss=loss)
    assert np.isnan(value)
    assert not any(grad.any() for grad in grads)
    results = linear_cross_entropy(hidden, weight, target, bias, loss=loss, normalizer=2.0)
    expected = through_logits(hidden, weight, target, bias, loss, normalizer=2.0)
    assert_same(results, expected, np.float64)


# 16 bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_16_bits_are_widened(dtype, reduction, chunks, rng):
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=0.1, reduction=reduction)
    hidden, weight, bias, target = layer(rng, dtype, 3, 50)
    target[0, ::3] = -100
    for b in (None, bias):
        results = linear_cross_entropy(hidden, weight, target, b, loss=loss)
        x, w = hidden.astype(np.float32), weight.astype(np.float32)
        wide_bias = None if b is None else b.astype(np.float32)
        expected = linear_cross_entropy(x, w, target, wide_bias, loss=loss)
        np.testing.assert_allclose(results[0], expected[0], rtol=1e-6)
        assert np.asarray(results[0]).dtype == np.asarray(expected[0]).dtype
        # As in float32, then rounded once: neither the logits nor the sums are rounded to 16 bits.
        info = ml_dtypes.finfo(dtype)
        rtol, least = 1.01 * float(info.eps) / 2, float(info.smallest_subnormal)
        for result, truth in zip(results[1:], expected[1:], strict=True):
            assert (result is None) == (truth is None)
            if truth is not None:
                assert result.dtype == dtype
                atol = 1e-6 * np.max(np.abs(truth)) + least
                np.testing.assert_allclose(result.astype(np.float32), truth, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sums_over_rows_are_not_rounded_to_16_bits(dtype, chunks):
    """Added up in 16 bits, 6000 gradients of 1/2 would end at 1024 or 128."""
    loss = fastce.SoftmaxCrossEntropy(reduction="sum")
    hidden, weight = np.ones((6_000, 1), dtype), np.zeros((2, 1), dtype)
    bias = np.zeros(2, dtype)
    _, _, grad_weight, grad_bias = linear_cross_entropy(
        hidden, weight, np.zeros(6_000, int), bias, loss=loss
    )
    exact = np.array([-3_000, 3_000]).astype(dtype)
    np.testing.assert_array_equal(grad_weight[:, 0], exact)
    np.testing.assert_array_equal(grad_bias, exact)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numpy_neither_warns_nor_raises(dtype, chunks, rng):
    """Whatever the numbers are: a row with infinity is NaN, and the others are as they were."""
    hidden, weight, bias, target = layer(rng, dtype, 50)
    hidden[3], hidden[4] = np.inf, np.finfo(dtype).tiny
    loss = fastce.SoftmaxCrossEntropy(reduction="none", z_loss=1e-6)
    with np.errstate(all="raise"):
        losses, grad, *_ = linear_cross_entropy(hidden, weight, target, bias, loss=loss)
    with np.errstate(all="ignore"):
        expected = through_logits(hidden, weight, target, bias, loss)
    tolerance = 1e-5 if dtype == np.float32 else 1e-3
    np.testing.assert_allclose(losses, expected[0], rtol=tolerance)
    np.testing.assert_allclose(grad, expected[1], rtol=tolerance, atol=tolerance)
    assert np.isnan(losses).nonzero()[0].tolist() == [3]


def test_layouts(chunks, rng):
    hidden, weight, bias, target = layer(rng, np.float64, 90)
    expected = linear_cross_entropy(hidden, weight, target, bias)
    results = linear_cross_entropy(
        np.repeat(hidden, 2, axis=1)[:, ::2],
        np.asfortranarray(weight),
        target.astype(np.int16),
        np.repeat(bias, 3)[::3],
    )
    assert_same(results, expected, np.float64)


def test_one_sample_and_no_sample(rng):
    hidden, weight, bias, target = layer(rng, np.float64)
    results = linear_cross_entropy(hidden, weight, int(target), bias)
    loss = fastce.SoftmaxCrossEntropy()
    assert_same(results, through_logits(hidden, weight, target, bias, loss), np.float64)
    hidden, weight, bias, target = layer(rng, np.float64, 0)
    value, *grads = linear_cross_entropy(hidden, weight, target, bias)
    assert np.isnan(value)
    assert [grad.shape for grad in grads] == [hidden.shape, weight.shape, bias.shape]
    assert not any(grad.any() for grad in grads)


HIDDEN, WEIGHT = np.zeros((4, 8), np.float32), np.zeros((CLASSES, 8), np.float32)
NO_FLOATS = "hidden must be float16, bfloat16, float32 or float64"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": [0, 1, 37, 2]}, IndexError, "label 37 at position 2"),
        ({"weight": WEIGHT.astype(float)}, TypeError, "weight must be of the dtype of hidden"),
        *[({"hidden": HIDDEN.astype(t)}, TypeError, NO_FLOATS) for t in ("int", "complex", ">f4")],
        ({"hidden": np.ma.masked_array(HIDDEN)}, TypeError, "hidden is a masked array"),
        ({"bias": [[1.0], [2.0, 3.0]]}, ValueError, "bias cannot be converted to an array"),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight of shape"),
        ({"sample_weight": [1, 1, np.nan, 1]}, ValueError, "be finite, got nan at position 2"),
        ({"normalizer": -1}, ValueError, "normalizer must be finite and greater than 0"),
        ({"weight": WEIGHT.T}, ValueError, "weight must have shape"),
        ({"bias": np.zeros(3, np.float32)}, ValueError, "bias must have shape"),
        ({"target": [0, 1, 2]}, ValueError, "target of shape"),
        ({"loss": fastce.SoftmaxCrossEntropy(weight=np.ones(36))}, ValueError, "36 weights"),
        ({"loss": fastce.SoftmaxCrossEntropy(axis=0)}, ValueError, "axis=0"),
        ({"loss": fastce.BCEWithLogits()}, TypeError, "BCEWithLogits"),
    ],
)
def test_errors(change, error, message):
    call = {"hidden": HIDDEN, "weight": WEIGHT, "target": [0, 1, 2, 3], **change}
    with pytest.raises(error, match=message):
        linear_cross_entropy(**call)


def test_position_of_a_bad_probability(chunks, rng):
    hidden, weight, _, _ = layer(rng, np.float64, 3, 50)
    for bad in (-0.25, np.nan, np.inf):
        target = np.full((3, 50, CLASSES), 1 / CLASSES)
        target[2, 7, 5] = bad
        with pytest.raises(ValueError, match=rf"target must .* got {bad} at position \(2, 7, 5\)"):
            linear_cross_entropy(hidden, weight, target)
        used = np.arange(50) != 7  # of weight 0, it is not looked at
        assert np.isfinite(linear_cross_entropy(hidden, weight, target, sample_weight=used)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_logits_are_never_whole(dtype, rng):
    """Peak memory without inputs and outputs, at a size whose logits are 256 MB in float32."""
    hidden = rng.normal(size=(2048, 16)).astype(dtype)
    weight = rng.normal(size=(32_000, 16)).astype(dtype)
    target = rng.integers(0, 32_000, 2048)
    linear_cross_entropy(hidden[:2], weight, target[:2])  # imports, thread pool
    most = peak(lambda: linear_cross_entropy(hidden, weight, target))
    assert most - hidden.nbytes - weight.nbytes < 64 << 20
    assert most > 40 << 20  # NumPy's arrays are being traced
