"""A row's result does not depend on the rows beside it, in the functions of rows."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import fastce

INF, NAN = np.inf, np.nan
NAMES = ("softmax", "log_softmax", "logsumexp")


def edge_rows(classes, dtype, rng):
    """Rows (all kinds, classes) that take every way through the kernels, and a mask of each."""
    largest = float(np.finfo(dtype).max)
    ordinary = rng.normal(size=(8, classes)) * 3
    rows = [*ordinary, np.zeros(classes), np.full(classes, 1e3)]
    for kind in range(21):
        row = rng.normal(size=classes)
        some = rng.random(classes) < 0.3
        some[rng.integers(classes)] = True
        one = np.arange(classes) == rng.integers(classes)
        match kind:
            case 0 | 1:
                row[one] = INF
            case 2:
                row[some] = INF
            case 3:
                row[:] = INF
            case 4 | 5:
                row[one] = NAN
            case 6:
                row[some] = -INF
            case 7:
                row[~one] = -INF
            case 8:
                row[:] = -INF
            case 9:
                row[some], row[one] = INF, NAN
            case 10:
                row[some], row[one] = -INF, INF
            case 11:
                row = np.where(some, 2.5, -9.0)  # ties
            case 12 | 13:
                row[one] = 1e3  # confident
            case 14:
                row[one] = -1e3
            case 15:
                row *= min(1e30, largest / 8)
            case 16:
                row[one] = largest
            case 17:
                row *= 1000 * float(np.finfo(dtype).smallest_subnormal)
            case 18:
                row -= 95  # exponentials that are subnormal in float32
            case 19:
                row += 60
            case 20:
                row[some] -= 86
        rows.append(row)
    with np.errstate(over="ignore"):
        z = np.array(rows).astype(dtype)
    mask = rng.random(z.shape) < 0.8
    mask[::7] = False
    return z, mask


def bits(array):
    """The bits of numbers, but one NaN is as good as another."""
    array = np.ascontiguousarray(array)
    array = (
        np.where(np.isnan(array), array.dtype.type(NAN), array)
        if array.dtype.kind == "f"
        else array
    )
    return array.view(f"u{array.dtype.itemsize}")


def results_of_rows(z, mask, label, axis=-1):
    """Everything that the functions say of each row; with axis 0 the rows lie in planes."""
    if axis == 0:
        z, mask = np.asfortranarray(z).T, np.asfortranarray(mask).T
    results = {}
    for name in NAMES:
        for where in (None, mask):
            result = getattr(fastce, name)(z, axis=axis, where=where)
            results[name, where is None] = result.T if axis == 0 else result
    return results | fastce.token_log_probs(z, label, axis=axis)._asdict()


def assert_independent(batches, alone):
    """Check batches, each given by the kinds of its rows, against the bits of each kind alone."""
    wrong = set()
    for kinds, results in batches:
        for name, result in results.items():
            differs = (bits(result) != alone[name][kinds]).reshape(len(kinds), -1).any(axis=1)
            wrong |= {(name, int(kind)) for kind in kinds[differs]}
    assert not wrong, f"functions, and kinds of rows, that depend on neighbours: {wrong}"


DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
CLASSES = pytest.mark.parametrize("classes", [1, 2, 3, 5, 10, 17, 64, 100, 193, 300])


@DTYPES
@CLASSES
@pytest.mark.parametrize("axis", [-1, 0])
def test_a_row_alone_is_the_row_among_others(axis, classes, dtype, isa):
    """Bit for bit: every kind of row in every position of a block, with changing neighbours.

    A row of planes is "alone" among copies of itself, since a single one would be contiguous.
    """
    rng = np.random.default_rng(classes)
    z, mask = edge_rows(classes, dtype, rng)
    label = rng.integers(classes, size=len(z))
    kinds, copies, step = np.arange(len(z)), 33 if axis == 0 else 1, 5 if axis == 0 else 1
    single = [
        results_of_rows(z[i], mask[i], label[i], axis=axis)
        for i in kinds[:, None].repeat(copies, 1)
    ]
    alone = {name: bits(np.stack([row[name][0] for row in single])) for name in single[0]}
    orders = [(np.arange(130) + shift) % len(z) for shift in range(0, len(z), step)]
    orders += [rng.integers(len(z), size=rows) for rows in (2, 3, 63, 64, 65, 129, 130)]
    assert_independent(
        (
            (order, results_of_rows(z[order], mask[order], label[order], axis=axis))
            for order in orders
        ),
        alone,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", ">f4"])
@pytest.mark.parametrize("classes", [1, 3, 100, 300])
def test_no_floating_point_error_is_signalled(classes, dtype, isa):
    rng = np.random.default_rng(classes)
    z, mask = edge_rows(classes, "float32" if dtype in ("bfloat16", ">f4") else dtype, rng)
    z = z.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    label = rng.integers(classes, size=len(z))
    with np.errstate(all="raise"):
        results_of_rows(z, mask, label)
        results_of_rows(z, mask, label, axis=0)
        for name, where in itertools.product(NAMES, (None, mask)):
            function = getattr(fastce, name)
            function(z, axis=None, where=where)
            where = None if where is None else where[:, ::-2]
            function(z[:, ::-2], axis=(1, 0), where=where)


@DTYPES
@CLASSES
def test_lse_of_tokens_is_logsumexp_of_edge_rows_too(classes, dtype, isa):
    rng = np.random.default_rng(classes)
    z, _ = edge_rows(classes, dtype, rng)
    lse = fastce.token_log_probs(z, rng.integers(classes, size=len(z))).lse
    expected = fastce.logsumexp(z)
    infinite = ~np.isfinite(expected)
    assert np.isposinf(expected).any()
    assert np.isneginf(expected).any()
    np.testing.assert_array_equal(lse[infinite], expected[infinite])
    np.testing.assert_allclose(lse, expected, rtol=1e-6)
