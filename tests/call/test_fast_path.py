"""The fast path into the compiled entry gives the bits of calls that Python checks first.

The entry declines subclasses of NumPy's array. Each test counts the declined calls.
"""

from __future__ import annotations

from functools import partial
from unittest import mock

import numpy as np
import pytest

import fastce

# Up to a single task; just beyond, where tasks begin; and enough for threads.
SIZES = [1 << 17, (1 << 17) + 1000, 1 << 19]


class Declined(np.ndarray):
    """An array like any other."""


class Counted:
    """A loss whose calls have to be declined by the compiled entry, or taken at once."""

    def __init__(self, loss, *, declined):
        self._loss, self._declined = loss, int(declined)

    def _call(self, method, *arguments, **options):
        family = type(self._loss)._family
        with mock.patch.object(type(self._loss), "_family", side_effect=family) as checks:
            result = getattr(self._loss, method)(*arguments, **options)
        assert checks.call_count == self._declined, f"{method}: {checks.call_count} declined"
        return result

    def __call__(self, *arguments, **options):
        return self._call("__call__", *arguments, **options)

    def __getattr__(self, method):
        return partial(self._call, method)


def ways(loss):
    """The loss for calls that are taken at once, and for those that are declined."""
    return Counted(loss, declined=False), Counted(loss, declined=True)


def assert_same(direct, laid_out):
    assert direct[0] == laid_out[0]
    for a, b in zip(direct[1:], laid_out[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_subclass_is_declined(isa):
    z, label = np.zeros((2, 3), np.float32), np.zeros(2, int)
    kernel = fastce.SoftmaxCrossEntropy().kernel()
    assert kernel.evaluate(2, z, label) is not None
    assert kernel.evaluate(2, z.view(Declined), label) is None
    assert fastce.BCEWithLogits().kernel().evaluate(2, z.view(Declined), z) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [3, 10, 100, 1000, 5000])
@pytest.mark.parametrize("size", SIZES)
def test_rows(size, classes, weighted, dtype, isa, threads, rng):
    rows = size // classes
    z = rng.normal(0, 3, (rows, classes)).astype(dtype)
    label = rng.integers(0, classes, rows)
    weight = rng.integers(3, size=rows).astype(np.float32) if weighted else None
    total = float(rows if weight is None else weight.sum())
    loss, checked = ways(fastce.SoftmaxCrossEntropy())
    threads(3)
    direct = loss.value_and_grad(z, label, sample_weight=weight)
    threads(1)
    assert_same(direct, checked.value_and_grad(z.view(Declined), label, sample_weight=weight))
    assert_same(direct, loss.value_and_grad(z, label, sample_weight=weight, normalizer=total))
    assert np.any(direct[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(
    "shape",
    [(3, 7, 5), (2, 10, 70, 1), (4, 21, 70, 70), (3, 1000, 5, 9), (5, 1, 8), (2, 1025, 3)],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=str)
def test_planes(options, shape, dtype, isa, threads, rng):
    z = rng.normal(0, 3, shape).astype(dtype)
    label = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    threads(3)
    for axis in (1, 1 - len(shape)):
        loss, checked = ways(fastce.SoftmaxCrossEntropy(axis=axis, **options))
        direct = loss.value_grad_hess(z, label)
        direct_grad = loss.value_and_grad(z, label, out=np.empty_like(z))
        threads(1)
        assert_same(direct, checked.value_grad_hess(z.view(Declined), label))
        assert_same(direct_grad, checked.value_and_grad(z.view(Declined), label))
        each, _ = ways(fastce.SoftmaxCrossEntropy(axis=axis, reduction="none", **options))
        value = each(z, label)
        assert value.shape == label.shape
        np.testing.assert_array_equal(value, each.value_and_grad(z, label, grad_output=1.0)[0])
        assert shape[1] == 1 or (np.any(direct[1]) and np.all(value > 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "given", [fastce.BCEWithLogits(), fastce.SigmoidFocalLoss(gamma=1.5)], ids=str
)
@pytest.mark.parametrize("size", SIZES)
def test_elements(size, given, weighted, dtype, isa, threads, rng):
    loss, checked = ways(given)
    z = rng.normal(0, 3, size).astype(dtype)
    y = (rng.random(size) < 0.5).astype(dtype)
    weight = rng.integers(3, size=size).astype(np.float32) if weighted else None
    total = float(size if weight is None else weight.sum())
    threads(3)
    direct = loss.value_grad_hess(z, y, sample_weight=weight)
    threads(1)
    assert_same(direct, checked.value_grad_hess(z.view(Declined), y, sample_weight=weight))
    assert_same(direct, loss.value_grad_hess(z, y, sample_weight=weight, normalizer=total))
    assert np.all(direct[2] >= 0) if isinstance(given, fastce.BCEWithLogits) else np.any(direct[2])
    value, grad = loss.value_and_grad(z, y, sample_weight=weight, out=np.empty_like(z))
    assert_same((value, grad), direct[:2])


@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "BCEWithLogits"])
def test_a_long_integer_is_a_factor(loss):
    z, y = np.ones((2, 3)), np.ones((2, 3), bool)
    direct, checked = ways(getattr(fastce, loss)())
    expected = direct.value_and_grad(z, y, grad_output=1e30)
    assert_same(expected, direct.value_and_grad(z, y, grad_output=10**30))
    assert_same(expected, checked.value_and_grad(z.view(Declined), y, grad_output=10**30))
    with pytest.raises(ValueError, match=r"grad_output must be finite, got 1000.*\.\.\.$"):
        checked.value_and_grad(z, y, grad_output=10**400)


@pytest.mark.parametrize("size", SIZES)
def test_a_bad_target_leaves_the_output_alone(size, isa, threads, rng):
    threads(3)
    z = rng.normal(0, 3, size).astype(np.float32)
    y = np.ones(size, np.float32)
    out = np.full(size, 7, np.float32)
    for at in (0, size // 2, size - 1):
        y[at] = 1.5
        with pytest.raises(ValueError, match=rf"\b{at}\b"):
            fastce.BCEWithLogits().value_and_grad(z, y, out=out)
        y[at] = 1
    assert np.all(out == 7)
    labels = np.zeros(size // 10, int)
    labels[-1] = 10
    with pytest.raises(IndexError, match="10"):
        fastce.SoftmaxCrossEntropy().value_and_grad(
            z[: size // 10 * 10].reshape(-1, 10), labels, out=out[: size // 10 * 10].reshape(-1, 10)
        )
    assert np.all(out == 7)
