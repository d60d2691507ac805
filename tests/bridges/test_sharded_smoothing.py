"""Label smoothing of rows that are split over shards."""

from __future__ import annotations

import numpy as np
import pytest
from sharding import evaluate

import fastce
from fastce import reference


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="np.longdouble is float64")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_the_mass_of_many_unmasked_classes_is_accurate(smoothing, weighted, isa, rng):
    """Added up one after another, the shares of 1,400 classes had an error of 125 ULP."""
    z = np.round(rng.normal(size=(5, 2047)) * 96) / 32
    z -= z.max(axis=1, keepdims=True)
    where, y = rng.random(z.shape) < 0.7, rng.integers(2047, size=5)
    options = {"label_smoothing": smoothing, "reduction": "sum"}
    if weighted:
        options["weight"] = np.full(2047, 0.3)
    _, grad = evaluate(fastce.SoftmaxCrossEntropy(**options), z, y, [0, 958, 2047], where=where)
    true = reference.softmax_cross_entropy(z.astype(np.longdouble), y, where=where, **options)[1]
    large = np.abs(true) > 1e-3  # others are small differences
    np.testing.assert_allclose(grad[large], true[large].astype(float), rtol=16 * 2.0**-52)
