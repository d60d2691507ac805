"""Which plan a call takes, and that both sides of every threshold give what the reference gives."""

from __future__ import annotations

import numpy as np
import pytest
from batches import on_grid
from cases import DTYPES
from sizes import LONG_PLANES, SIZES, class_counts, long_planes

import fastce
from fastce import reference
from fastce._call import variants


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_plans_of_rows(dtype, isa):
    few, many = SIZES["interleaved classes"], 70_000
    for classes, plan in (
        (1, "block interleaved"),
        (few, "block interleaved"),
        (few + 1, "block by rows"),
        (many, "block by rows"),
    ):
        z = np.zeros((3, classes), dtype)
        assert variants.core.plan_of(z) == plan
        assert variants.core.plan_of(z[::-1]) == plan
        assert variants.core.plan_of(np.zeros((3, classes + 5), dtype)[:, :classes]) == plan
    for classes in (few + 1, many):  # strided classes are gathered, however many there are
        z = np.zeros((2, 2 * classes), dtype)[:, ::2]
        assert variants.core.plan_of(z) == "block by rows"


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_plans_of_planes(dtype, isa):
    for classes in (2, SIZES["interleaved classes"] + 1, 1000, 70_000):
        z = np.zeros((2, classes, 3), dtype)
        assert variants.core.plan_of(z, 1) == "block by planes"
        assert variants.core.plan_of(np.zeros((classes, 6), dtype).T) == "block by planes"


def test_what_python_lays_out_first(isa):
    z = np.zeros((4, 6, 8, 10), np.float32)
    assert variants.core.plan_of(z[:, :5, :7]) is None  # three axes of rows in memory
    assert variants.core.plan_of(z.astype(">f4")) is None
    assert variants.core.plan_of(z[:, :5]) is not None


def test_class_indices_of_planes_are_exact_in_float32(isa):
    """Planes compare them as float32 numbers, which represent integers exactly up to 2^24."""
    for classes, plan in ((1 << 24) - 1, "block by planes"), (1 << 24, "block by rows"):
        z = np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (classes, 2), (8, 4))
        assert variants.core.plan_of(z, 0) == plan  # without reading a number


def planes(rng, classes, rows, ignored=0):
    """One row does not count, one is out of exp's range."""
    z = on_grid(rng, (classes, rows)).astype(np.float32)
    z[:, rows // 2] += 128
    y = rng.integers(classes, size=rows)
    y[ignored] = -100
    return z, y


LONG = SIZES["largest block bytes"] // 4
CLASSES = sorted(
    {
        classes + more
        for classes in (*class_counts("rows", "float32"), LONG // 2)
        for more in (-1, 0, 1)
        if classes + more > 0
    }
)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("results", [2, 3])
def test_both_sides_of_the_thresholds_of_rows(classes, results, isa, rng):
    """A full block and one row more."""
    rows = SIZES["block rows"] + 1 if classes < LONG - 1 else 3
    z, y = planes(rng, classes, rows, ignored=1)
    z = np.ascontiguousarray(z.T)
    check(z, y, results, {}, axis=-1)
    check(z, y, results, {"label_smoothing": 0.1}, axis=-1)


@pytest.mark.parametrize(
    "rows",
    [
        *(1, 15, 16, 17),
        *(SIZES["block rows"] + d for d in (-1, 1)),
        *(SIZES["plane row bytes"] // 4 + d for d in (-1, 1)),
    ],
)
@pytest.mark.parametrize("classes", [2, *(SIZES["classes together"] + d for d in (-1, 0, 1)), 33])
def test_both_sides_of_the_thresholds_of_planes(rows, classes, isa, rng):
    z = on_grid(rng, (2, classes, rows)).astype(np.float32)
    z[1, :, rows // 2] += 128
    y = rng.integers(classes, size=(2, rows))
    y[0, 0] = -100
    check(z, y, 3, {}, axis=1)
    check(z, y, 2, {"label_smoothing": 0.1}, axis=1)


@pytest.mark.parametrize("rows", [16, 61])
@pytest.mark.parametrize("results", [2, 3])
def test_both_sides_of_the_parts_of_planes(rows, results, isa, rng):
    """One part and two, the second a single class."""
    for more in (0, 1):
        classes = SIZES["part elements"] // (-rows // 16 * -16) + more
        z, y = planes(rng, classes, rows)
        for options in ({}, {"logit_scale": 0.5}, {"softcap": 30.0}, {"label_smoothing": 0.1}):
            check(z, y, results, options, axis=0)


@pytest.mark.parametrize(("scratch", "most", "least"), LONG_PLANES)
def test_both_sides_of_the_thresholds_of_long_planes(scratch, most, least, isa, rng):
    """A full run and one row more, in place or by way of scratch."""
    for rows, classes in long_planes(scratch, most, least):
        z, y = planes(rng, classes, rows)
        check(z, y, 2, {"logit_scale": 0.5 if scratch else 1.0}, axis=0)


@pytest.mark.parametrize("offset", [0, 17])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((21_001, 100), -1),
        ((1, 21, 100_003), 1),
        ((1, 100, 21_003), 1),  # in parts
        ((90, 21, 33 * 34), 1),
        ((7000, 7, 7 * 7), 1),  # short planes, which are not
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_gradients_go_past_the_caches(dtype, shape, axis, offset, isa, rng):
    """From 8 MB on they are streamed, whole lines at a time: to any address, with the same bits."""
    z = rng.standard_normal(shape).astype(dtype)
    y = rng.integers(shape[axis], size=np.delete(shape, axis))
    assert z.nbytes > 8 << 20
    memory = np.full(z.size + offset + 5, 7, dtype)
    out = memory[offset : offset + z.size].reshape(shape)
    loss = fastce.SoftmaxCrossEntropy(reduction="none", axis=axis)
    value, grad = loss.value_and_grad(z, y, out=out)
    assert np.shares_memory(grad, memory)
    assert np.all(grad.any(axis=axis))  # no row is left out
    split = 0 if len(shape) == 2 or shape[0] > 1 else 2
    count = 2 * z.nbytes // (8 << 20) + 2
    parts = np.array_split(z, count, split), np.array_split(y, count, split // 2)
    results = [
        loss.value_and_grad(*map(np.ascontiguousarray, part)) for part in zip(*parts, strict=True)
    ]
    assert all(part.nbytes < 8 << 20 for _, part in results)
    np.testing.assert_array_equal(grad, np.concatenate([part for _, part in results], split))
    np.testing.assert_array_equal(value, np.concatenate([x for x, _ in results], split // 2))
    assert np.all(memory[:offset] == 7)
    assert np.all(memory[offset + z.size :] == 7)


@pytest.mark.parametrize(
    "rows", [1, 15, 17, SIZES["interleaved rows"], SIZES["interleaved rows"] + 17]
)
@pytest.mark.parametrize("classes", range(1, SIZES["interleaved classes"] + 1))
def test_interleaved_rows(rows, classes, isa, rng):
    z = on_grid(rng, (rows, classes)).astype(np.float32)
    z[rows // 2] += 128
    y = rng.integers(classes, size=rows)
    check(z, y, 3, {}, axis=-1)
    q = rng.random(z.shape)
    check(z, q, 2, {}, axis=-1)


def check(z, target, results, options, axis):
    loss = fastce.SoftmaxCrossEntropy(reduction="none", axis=axis, **options)
    found = (loss.value_and_grad if results == 2 else loss.value_grad_hess)(z, target)
    wide = z.astype(np.float64)
    truth = reference.softmax_cross_entropy(wide, target, reduction="none", axis=axis, **options)
    for a, b in zip(found, truth, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-7)
    assert np.any(found[1]) or z.shape[axis] == 1
