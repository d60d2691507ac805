"""What the kernel computes of a row besides its loss: against the reference, and by identities."""

from __future__ import annotations

import numpy as np
import pytest
from bounds import working
from cases import DTYPES
from row_statistics import KINDS, NAMES, assert_statistics_are_right, rows_of, statistics
from sizes import SIZES

import fastce
from fastce._call import variants

FEW = SIZES["token classes"]  # most classes that are packed class by class


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 40, 5000])
def test_ties_of_huge_logits(classes, dtype, isa):
    """Their exponentials are raised, and the squares of these are beyond the range of a double."""
    z = np.zeros((2, classes), dtype)
    z[0, [0, 2]] = 1e30
    z[1, :3] = -1e30
    _, found = statistics(z, np.zeros(2, int))
    np.testing.assert_allclose(found["other_squares"][0], 0.25)
    np.testing.assert_allclose(found["entropy"][0], np.log(2))
    assert all(np.isfinite(x).all() for x in found.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [1, 2, FEW, FEW + 1, 40, 300, 4500])
def test_statistics(classes, dtype, order, kind, isa, rng):
    rows = 1 if classes > 500 else 5
    z = np.asarray(rows_of(kind, (rows, classes), rng), dtype, order=order)
    y = rng.integers(classes, size=rows)
    assert_statistics_are_right(z, y, kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, FEW, FEW + 1, 5000])
def test_the_rest_is_token_log_probs(classes, dtype, isa, rng):
    """Bit for bit: it is the same kernel."""
    z = (3 * rng.normal(size=(7, classes))).astype(DTYPES[dtype])
    y = rng.integers(classes, size=7)
    same, _ = statistics(z, y)
    for a, b in zip(same, fastce.token_log_probs(z, y), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [4, FEW, FEW + 1, 3000])
def test_every_dtype_and_layout(classes, dtype, isa, rng):
    z = (3 * rng.normal(size=(6, 4, classes))).astype(DTYPES[dtype])
    y = rng.integers(classes, size=(6, 4))
    wide = z.astype(working(z.dtype))
    _, expected = statistics(wide, y)
    for logits, axis in ((z, -1), (np.moveaxis(z, -1, 1), 1), (z[::-1, ::-1][::-1, ::-1], -1)):
        _, found = statistics(logits, y, axis)
        for name in NAMES:
            assert found[name].shape == (6, 4)
            np.testing.assert_allclose(
                found[name], expected[name], rtol=100 * np.finfo(wide.dtype).eps, err_msg=name
            )


@pytest.mark.parametrize("classes", [2, 12, 6000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, "nothing"])
def test_a_row_without_a_softmax_is_nan(classes, bad, isa, rng):
    z = rng.normal(size=(5, classes)).astype(np.float32)
    z[2] = -np.inf if bad == "nothing" else z[2]
    z[2, 1] = -np.inf if bad == "nothing" else bad
    y = np.zeros(5, int)
    _, found = statistics(z, y)
    _, alone = statistics(z[[0, 1, 3, 4]], y[:4])
    for name in NAMES:
        assert np.isnan(found[name][2]), name
        np.testing.assert_allclose(found[name][[0, 1, 3, 4]], alone[name], rtol=1e-6)


@pytest.mark.parametrize("classes", [5, 300, 5000])
def test_moments_are_derivatives_by_the_temperature(classes, isa, rng):
    """In float64: d loss / d log b is loss − entropy, and b² d² loss / db² is the variance."""
    z = rng.normal(scale=2, size=(4, classes))
    y = rng.integers(classes, size=4)
    (log_prob, lse, _), found = statistics(z, y)
    step = 1e-4
    losses = [-statistics(z, y, logit_scale=scale)[0][0] for scale in (1 - step, 1, 1 + step)]
    slope = -log_prob - found["entropy"]
    np.testing.assert_allclose((losses[2] - losses[0]) / (2 * step), slope, rtol=1e-6, atol=1e-7)
    second = (losses[2] - 2 * losses[1] + losses[0]) / step**2
    np.testing.assert_allclose(second, found["variance"], rtol=1e-5, atol=1e-5)
    mean = (fastce.softmax(z) * z).sum(axis=-1)
    np.testing.assert_allclose(lse - found["entropy"], mean, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("where", ["before", "behind", "far behind"])
@pytest.mark.parametrize("classes", [7, 600, 9000])
def test_ties_go_to_the_higher_index(where, classes, isa):
    z = np.zeros((1, classes), np.float32)
    y = np.array([classes // 2])
    z[0, y] = 1.0
    other = {"before": y - 1, "behind": y + 1, "far behind": [classes - 1]}[where]
    z[0, other] = 1.0
    _, found = statistics(z, y)
    assert found["rank"] == [0.0 if where == "before" else 1.0]


@pytest.mark.parametrize("classes", [4, 40, 4400])
def test_float64_on_request(classes, isa, rng):
    z = rng.normal(size=(6, classes)).astype(np.float32)
    y = rng.integers(classes, size=6)
    kernel = variants.core.SoftmaxKernel("cross_entropy", logit_scale=0.7)
    *a, x = kernel.read_tokens(z, y, statistics=True, double_precision=True, checked=True)
    *b, e = kernel.read_tokens(z.astype(float), y, statistics=True, checked=True)
    for first, second in zip([*a, x], [*b, e], strict=True):
        np.testing.assert_array_equal(first, second)
        assert first.dtype == second.dtype
