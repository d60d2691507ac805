"""Softmax rows with and without exponentials too small for a normal number: the same bits.

Exponentials are raised by a power of two, so that they are normal numbers down to a distance from
the maximum of 131.7 (float32) or 1063.3 (float64). The loops that do not check end at 131 and 1063.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastce
from fastce import reference

LAST = {np.float32: 131.0, np.float64: 1063.0}
# Packed by classes, by rows, and rows that are a run of their own.
SHAPES = [(70, 2), (70, 3), (130, 10), (70, 100), (3, 300), (2, 5000)]


@pytest.mark.parametrize("beyond", [-1.0, 0.0, 1e-3, 0.4, 0.6, 0.8, 50.0, np.inf])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", LAST)
def test_what_does_not_count_changes_nothing(dtype, shape, beyond, isa, rng):
    """One logit far below its row's maximum leaves other rows as they are, to the bit.

    Its own row may then have exponentials relative to the maximum, of rounded differences up to 32.
    """
    z, y = rng.normal(0, 3, shape).astype(dtype), np.zeros(shape[0], np.int64)
    row, column = shape[0] - 1, shape[1] - 1
    z[row, 0] = 20.0
    loss = fastce.SoftmaxCrossEntropy()
    z[row, column] = 20.0 - 100.0  # already lost next to the others, unless there are two classes
    _, before = loss.value_and_grad(z, y)
    _, expected, _ = reference.softmax_cross_entropy(z, y)
    rtol = 2e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(before, expected, rtol=rtol, atol=1e-30)
    z[row, column] = 20.0 - LAST[dtype] - beyond
    _, after = loss.value_and_grad(z, y)
    same = np.ones(shape, bool)
    same[row] = False
    np.testing.assert_array_equal(after[same], before[same])
    if shape[1] > 2:
        rtol = 32 * np.finfo(dtype).eps
        np.testing.assert_allclose(after[row, :column], before[row, :column], rtol=rtol, atol=0)
    assert 0 <= after[row, column] <= np.exp(np.longdouble(-LAST[dtype] - beyond)) * (1 + 1e-4)


@pytest.mark.parametrize("distance", [130.5, 131.0, 131.25, 131.5, 131.625])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tail_of_tiny_exponentials(shape, distance, isa):
    """The loss of a right prediction is their sum, whichever loop has computed them."""
    z, y = np.full(shape, -distance, np.float32), np.zeros(shape[0], np.int64)
    z[:, 0] = 0
    total = fastce.SoftmaxCrossEntropy(reduction="sum")
    tail = (shape[1] - 1) * np.exp(-distance)
    np.testing.assert_allclose(total(z[:1], y[:1]), tail, rtol=1e-6)  # -distance is exact
    z[1:, 1:] = -np.inf  # so that only loops that check are left; their losses are 0
    np.testing.assert_allclose(total(z, y), tail, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", LAST)
def test_infinite_rows_beside_ordinary_ones(dtype, shape, isa, rng):
    """A row without a finite maximum has its limit, and leaves the other rows as they are."""
    z = rng.normal(0, 3, shape).astype(dtype)
    before = fastce.logsumexp(z)
    for row, fill in ((0, -np.inf), (1, np.inf)):
        infinite = z.copy()
        infinite[row, -1 if fill > 0 else slice(None)] = fill
        after = fastce.logsumexp(infinite)
        assert after[row] == fill
        np.testing.assert_array_equal(np.delete(after, row), np.delete(before, row))
