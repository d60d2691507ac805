"""linear_cross_entropy: the loss on the whole logits and the chain rule, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

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


def through_logits(hidden, weight, target, bias, loss):
    """The same in float64, with the logits whole."""
    x, w = hidden.astype(np.float64), weight.astype(np.float64)
    value, grad = loss.value_and_grad(x @ w.T + (0 if bias is None else bias), target)
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
    loss = type(loss)(**{**loss._options(), "reduction": reduction})
    hidden, weight, bias, target = layer(rng, dtype, 3, 50)
    target[0, ::3] = loss.ignore_index
    for b in (None, bias):
        results = linear_cross_entropy(hidden, weight, target, b, loss=loss)
        assert_same(results, through_logits(hidden, weight, target, b, loss), dtype)


def test_probabilities(chunks, rng):
    hidden, weight, bias, _ = layer(rng, np.float64, 90)
    target = fastce.softmax(rng.normal(size=(90, CLASSES)))
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    results = linear_cross_entropy(hidden, weight, target, bias, loss=loss)
    assert_same(results, through_logits(hidden, weight, target, bias, loss), np.float64)


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


def test_ignored_rows_are_not_used(chunks, rng):
    hidden, weight, bias, target = layer(rng, np.float32, 90)
    used = np.flatnonzero(rng.random(90) < 0.4)
    expected = linear_cross_entropy(hidden[used], weight, target[used], bias)
    spoilt, labels = np.full_like(hidden, np.nan), np.full(90, -100)
    spoilt[used], labels[used] = hidden[used], target[used]
    value, grad_hidden, *grads = linear_cross_entropy(spoilt, weight, labels, bias)
    assert_same((value, grad_hidden[used], *grads), expected, np.float32)
    assert not np.delete(grad_hidden, used, axis=0).any()

    value, *grads = linear_cross_entropy(spoilt, weight, np.full(90, -100), bias)
    assert np.isnan(value)
    assert not any(grad.any() for grad in grads)


def test_errors(rng):
    hidden, weight, bias, target = layer(rng, np.float32, 4)
    with pytest.raises(IndexError, match="label 37 at position 2"):
        linear_cross_entropy(hidden, weight, [0, 1, 37, 2])
    with pytest.raises(TypeError, match="weight must be of the dtype of hidden"):
        linear_cross_entropy(hidden, weight.astype(np.float64), target)
    with pytest.raises(TypeError, match="hidden must be float32 or float64"):
        linear_cross_entropy(hidden.astype(np.float16), weight.astype(np.float16), target)
    with pytest.raises(ValueError, match="weight must have shape"):
        linear_cross_entropy(hidden, weight.T, target)
    with pytest.raises(ValueError, match="bias must have shape"):
        linear_cross_entropy(hidden, weight, target, bias[:3])
    with pytest.raises(ValueError, match="target of shape"):
        linear_cross_entropy(hidden, weight, target[:3])
    loss = fastce.SoftmaxCrossEntropy(weight=np.ones(36))
    with pytest.raises(ValueError, match="36 weights"):
        linear_cross_entropy(hidden, weight, target, loss=loss)
    with pytest.raises(ValueError, match="axis=0"):
        linear_cross_entropy(hidden, weight, target, loss=fastce.SoftmaxCrossEntropy(axis=0))
    with pytest.raises(TypeError, match="BCEWithLogits"):
        linear_cross_entropy(hidden, weight, target, loss=fastce.BCEWithLogits())


def test_logits_are_never_whole(rng):
    """Peak memory beside inputs and outputs, at a size whose logits are 256 MB."""
    hidden = rng.normal(size=(2048, 16)).astype(np.float32)
    weight = rng.normal(size=(32_000, 16)).astype(np.float32)
    target = rng.integers(0, 32_000, 2048)
    linear_cross_entropy(hidden[:2], weight, target[:2])  # imports, thread pool
    tracemalloc.start()
    try:
        linear_cross_entropy(hidden, weight, target)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - hidden.nbytes - weight.nbytes < 64 << 20
    assert peak > 40 << 20  # NumPy's arrays are being traced


def test_is_torchs(rng):
    torch = pytest.importorskip("torch")
    hidden, weight, bias, target = layer(rng, np.float64, 90)
    tensors = [torch.tensor(array, requires_grad=True) for array in (hidden, weight, bias)]
    loss = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(*tensors), torch.tensor(target), label_smoothing=0.1
    )
    loss.backward()
    ce = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    results = linear_cross_entropy(hidden, weight, target, bias, loss=ce)
    assert_same(results, (loss.item(), *(tensor.grad.numpy() for tensor in tensors)), np.float64)
