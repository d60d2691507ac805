"""Parity with torch over its own kind of grid, with torchvision's focal loss, and with SciPy.

The reference runs the grid too: it is the oracle of all other tests.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import special

from fastce import reference

SHAPES = [(), (7,), (5, 3), (4, 2, 3), (2, 3, 2, 2)]  # of the batch; the class axis comes second
CLASSES = 6
WEIGHT = np.array([0.5, 1.0, 2.0, 0.25, 1.5, 3.0])


def logits_of(rng, shape, dtype=np.float64):
    """(N, K, d1, ...), or (K,) where there is no batch."""
    full = (CLASSES,) if shape == () else (shape[0], CLASSES, *shape[1:])
    return (3 * rng.normal(size=full)).astype(dtype)


def grid():
    for shape, reduction, weight, smoothing, target in itertools.product(
        SHAPES,
        ("mean", "sum", "none"),
        (None, WEIGHT),
        (0.0, 0.2),
        ("labels", "ignored", "ignored class", "probabilities"),
    ):
        name = (
            f"{len(shape)}-D-{reduction}-{'w' if weight is not None else ''}-{smoothing}-{target}"
        )
        yield pytest.param(shape, reduction, weight, smoothing, target, id=name)


@pytest.mark.parametrize(("shape", "reduction", "weight", "smoothing", "target"), list(grid()))
def test_cross_entropy_of_torch(shape, reduction, weight, smoothing, target, evaluate, rng):
    torch = pytest.importorskip("torch")
    z = logits_of(rng, shape)
    axis = 0 if shape == () else 1
    ignore_index = 2 if target == "ignored class" else -100
    if target == "probabilities":
        y = rng.exponential(size=z.shape)
        y /= y.sum(axis=axis, keepdims=True)
    else:
        y = rng.integers(CLASSES, size=shape)
        if target == "ignored" and shape:
            y = np.where(rng.random(shape) < 0.3, -100, y)
        elif shape == ():
            y = np.asarray((y + (y == ignore_index)) % CLASSES)

    tensor = torch.tensor(z, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        tensor,
        torch.tensor(y),
        weight=None if weight is None else torch.tensor(weight),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    factor = rng.normal(size=np.shape(theirs.detach().numpy()))
    theirs.backward(torch.tensor(factor))

    options = {
        "weight": weight,
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": smoothing,
        "axis": axis,
    }
    loss, grad, _ = evaluate("SoftmaxCrossEntropy", z, y, options, grad_output=factor)
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("shape", "pos_weight"),
    [
        *itertools.product([(), (5,), (4, 6), (2, 3, 6)], [None, 2.5]),
        ((4, 6), WEIGHT),
        ((2, 3, 6), WEIGHT),
    ],
)
@pytest.mark.parametrize("target", ["hard", "soft"])
def test_bce_of_torch(target, pos_weight, shape, reduction, evaluate, rng):
    torch = pytest.importorskip("torch")
    z = 5 * rng.normal(size=shape)
    y = np.asarray(rng.random(shape) if target == "soft" else rng.integers(2, size=shape) * 1.0)
    tensor = torch.tensor(z, requires_grad=True)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        tensor,
        torch.tensor(y),
        pos_weight=None if pos_weight is None else torch.tensor(pos_weight),
        reduction=reduction,
    )
    theirs.sum().backward()
    loss, grad, _ = evaluate(
        "BCEWithLogits", z, y, {"pos_weight": pos_weight, "reduction": reduction}
    )
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-11, atol=1e-15)


def focal_as_torchvision_defines_it(torch, z, y, alpha, gamma, reduction):
    """p_t, then (1 − p_t)^γ times the cross-entropy, then α_t where α is not negative."""
    p = torch.sigmoid(z)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    p_t = p * y + (1 - p) * (1 - y)
    loss = cross_entropy * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return loss if reduction == "none" else getattr(loss, reduction)()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("alpha", [-1, 0.25, 0.9])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 3.7])
@pytest.mark.parametrize("target", ["hard", "soft"])
def test_sigmoid_focal_of_torchvision(target, gamma, alpha, reduction, evaluate, rng):
    torch = pytest.importorskip("torch")
    z = 3 * rng.normal(size=(9, 7))
    y = rng.random(z.shape) if target == "soft" else rng.integers(2, size=z.shape).astype(float)
    tensor = torch.tensor(z, requires_grad=True)
    theirs = focal_as_torchvision_defines_it(
        torch, tensor, torch.tensor(y), alpha, gamma, reduction
    )
    (first,) = torch.autograd.grad(theirs.sum(), tensor, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), tensor)  # elements do not act on each other
    options = {"gamma": gamma, "alpha": None if alpha < 0 else alpha, "reduction": reduction}
    loss, grad, hess = evaluate("SigmoidFocalLoss", z, y, options)
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(grad, first.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(hess, second.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0, 1, 2, 3.7])
def test_softmax_focal_written_in_torch(gamma, weighted, reduction, evaluate, rng):
    torch = pytest.importorskip("torch")
    z = 2 * rng.normal(size=(9, CLASSES))
    y = rng.integers(CLASSES, size=9)
    tensor = torch.tensor(z, requires_grad=True)

    def focal(x):
        log_p = torch.log_softmax(x, dim=-1)[torch.arange(9), torch.tensor(y)]
        alpha = torch.tensor(WEIGHT[y]) if weighted else 1
        loss = -alpha * (1 - log_p.exp()) ** gamma * log_p
        return loss if reduction == "none" else getattr(loss, reduction)()

    theirs = focal(tensor)
    (first,) = torch.autograd.grad(theirs.sum(), tensor, create_graph=True)
    second = np.zeros_like(z)
    for j in range(CLASSES):
        (row,) = torch.autograd.grad(first[:, j].sum(), tensor, retain_graph=True)
        second[:, j] = row[:, j].numpy()
    options = {"gamma": gamma, "alpha": WEIGHT if weighted else None, "reduction": reduction}
    loss, grad, hess = evaluate("SoftmaxFocalLoss", z, y, options)
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(grad, first.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(hess, second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(64, 10), (9, 1000), (2, 21, 8, 8)])
def test_cross_entropy_of_torch_in_fewer_digits(shape, dtype, isa, rng):
    """Both are within their precision of the truth, so they are of each other."""
    torch = pytest.importorskip("torch")
    import ml_dtypes

    import fastce

    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    z = (3 * rng.normal(size=shape)).astype(numpy_dtype)
    y = rng.integers(shape[1], size=(shape[0], *shape[2:]))
    tensor = torch.tensor(z.astype(np.float32), dtype=getattr(torch, dtype), requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(tensor, torch.tensor(y))
    theirs.backward()
    loss, grad = fastce.SoftmaxCrossEntropy(axis=1).value_and_grad(z, y)
    eps = float(ml_dtypes.finfo(numpy_dtype).eps)
    assert loss == pytest.approx(theirs.item(), rel=4 * eps)
    difference = np.abs(grad.astype(float) - tensor.grad.to(torch.float64).numpy())
    assert np.all(difference <= 8 * eps / y.size)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_functions_of_scipy(axis, rng):
    z = 5 * rng.normal(size=(7, 4, 9))
    np.testing.assert_allclose(reference.softmax(z, axis), special.softmax(z, axis), rtol=1e-13)
    np.testing.assert_allclose(
        reference.log_softmax(z, axis), special.log_softmax(z, axis), rtol=1e-13, atol=1e-14
    )
    np.testing.assert_allclose(reference.logsumexp(z, axis), special.logsumexp(z, axis), rtol=1e-13)
