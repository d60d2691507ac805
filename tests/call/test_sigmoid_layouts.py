"""Arguments of the sigmoid losses of any type and layout give the bits of contiguous arrays.

They enter the kernels as they are: a chunk is widened in the cache, and what is broadcast is
repeated there.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from bounds import working
from cases import DTYPES, INTEGERS
from layouts import LAYOUTS
from sizes import CHUNK

import fastce

BCE, FOCAL = fastce.BCEWithLogits, fastce.SigmoidFocalLoss
TYPES = [np.dtype(t) for t in ("bool", *INTEGERS, *DTYPES.values())]
# Below, at and beyond a chunk of float64 and of float32, and with a tail.
SIZES = [1, *(n * CHUNK // 2 + d for n in (1, 2) for d in (-1, 0, 1)), 3 * CHUNK + 39]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


def batch(rng, shape, dtype=np.float32):
    return rng.normal(0, 3, shape).astype(dtype), rng.integers(0, 2, shape).astype(dtype)


def is_direct(loss, z, y, **call):
    """Whether the kernels take the arguments as they are."""
    return loss.kernel().evaluate(2, z, y, **call) is not None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_types(dtype, kind, size, isa, rng):
    """Targets, weights and factors of 0 and 1, which every type holds."""
    z, y = batch(rng, size, dtype)
    ones = rng.integers(0, 2, size)
    for loss in (BCE(reduction="none"), FOCAL(gamma=1.5, reduction="none")):
        expected = loss.value_grad_hess(z, y)
        assert_same(loss.value_grad_hess(z, y.astype(np.float32).astype(kind)), expected)
        for name in ("sample_weight", "grad_output"):
            expected = loss.value_grad_hess(z, y, **{name: ones.astype(working(dtype))})
            given = ones.astype(kind)
            assert_same(loss.value_grad_hess(z, y, **{name: given}), expected)
            assert is_direct(loss, z, y, **{name: given})


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_long_integers_are_exact(kind, isa):
    info = np.iinfo(kind)
    near = [0, 1, 2**31, 2**32, 2**53, 2**63]
    values = [sign * n + d for sign in (1, -1) for n in near for d in (-3, -1, 0, 1, 2)]
    values += [info.max, info.min]
    weight = np.array([x for x in values if info.min <= x <= info.max], kind)
    z = np.zeros(weight.size)
    _, grad = BCE(reduction="none").value_and_grad(z, z, sample_weight=weight)
    np.testing.assert_array_equal(grad, 0.5 * weight.astype(np.float64))


def test_a_float64_target_is_rounded_before_it_is_checked(isa):
    """What rounds to 1 counts as 1."""
    z, y = np.zeros(3, np.float32), np.array([0.0, 1 + 1e-12, 1.0])
    assert BCE()(z, y) == BCE()(z, np.round(y))
    with pytest.raises(ValueError, match=r"1\.0+1.* at position 1"):
        BCE()(z.astype(np.float64), y)


def layouts(rng, shape, make):
    """Yield (name, argument), of the shape (rows, planes, columns) or broadcast to it.

    Without arrays of subclasses and arrays that cannot be outputs, which the kernels decline.
    """
    full = make(rng, shape)
    yield "contiguous", full
    for name, part in (
        ("scalar", (1, 1, 1)),
        ("row", (1, 1, shape[2])),
        ("one of each row", (*shape[:2], 1)),
        ("plane", (shape[1], shape[2])),
        ("one of each plane", (1, shape[1], 1)),
        ("column", (shape[0], 1, 1)),
        ("column and row", (shape[0], 1, shape[2])),
    ):
        yield name, make(rng, part)
    yield "axes exchanged", np.ascontiguousarray(full.transpose(1, 0, 2)).transpose(1, 0, 2)
    yield "with gaps", np.pad(full, ((0, 0), (0, 2), (0, 3)))[:, :-2, :-3]
    for name in sorted(LAYOUTS.keys() - {"read_only", "memory_mapped"}):
        yield name, LAYOUTS[name](full)


SHAPES = [(7, 3, 5), (2, 3, 1500), (400, 1, 8), (1, 2, 3000), (3, 700, 2)]
MAKERS = {
    "sample_weight": lambda rng, shape: rng.choice([0.0, 0.5, 1.0, -2.0, 3.0], shape),
    "where": lambda rng, shape: rng.random(shape) < 0.7,
    "pos_weight": lambda rng, shape: rng.uniform(0.1, 3, shape),
    "alpha": lambda rng, shape: rng.uniform(0, 1, shape),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_layouts_of_options(dtype, name, shape, isa, rng):
    z, y = batch(rng, shape, dtype)
    for layout, argument in layouts(rng, shape, MAKERS[name]):
        whole = np.ascontiguousarray(np.broadcast_to(argument, shape))
        results = []
        for given in (argument, whole):
            if name in ("sample_weight", "where"):
                loss, call = BCE(reduction="none"), {name: given}
            elif name == "pos_weight":
                loss, call = BCE(pos_weight=given, reduction="none"), {}
            else:
                loss, call = FOCAL(alpha=given, gamma=0.5, reduction="none"), {}
            assert is_direct(loss, z, y, **call), layout
            results.append(loss.value_grad_hess(z, y, **call))
        assert_same(*results)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("which", ["logits", "target", "out", "all"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_layouts_of_arrays(dtype, which, shape, isa, rng):
    z, y = batch(rng, shape, dtype)
    weight = rng.choice([0.0, 0.5, 2.0], shape[1:])
    loss = FOCAL(gamma=1.0, reduction="none")
    expected = loss.value_grad_hess(z, y, sample_weight=weight)
    of_arrays = (
        layouts(rng, shape, lambda _, part, a=a: a.copy() if part == shape else a[:1, :1, :1])
        for a in (z, y, np.zeros_like(z), np.zeros_like(z))
    )
    for arrays in zip(*of_arrays, strict=True):
        laid_out = [array for _, array in arrays]
        if laid_out[0].shape != shape or laid_out[0].ndim != 3:
            continue  # only options are broadcast
        logits = laid_out[0] if which in ("logits", "all") else z
        target = laid_out[1] if which in ("target", "all") else y
        out = tuple(laid_out[2:]) if which in ("out", "all") else None
        found = loss.value_grad_hess(logits, target, sample_weight=weight, out=out)
        assert_same(found, expected)
        assert out is None or (found[1] is out[0] and found[2] is out[1])


def test_calls_that_go_to_the_kernels_at_once(isa, rng):
    """Whatever the option, arrays in C order go there directly: a call of 64 x 10 depends on it."""
    z, y = batch(rng, (64, 10))
    padded = np.zeros((64, 12), np.float32)
    row, column = np.ones(10), np.ones((64, 1), np.float32)
    for loss in (BCE(), BCE(pos_weight=2.0), BCE(pos_weight=row), FOCAL(alpha=row), FOCAL()):
        assert is_direct(loss, z, y)
        assert is_direct(loss, z, y.astype(bool), sample_weight=2.0, normalizer=3)
        assert is_direct(loss, z, y, where=y == 1, grad_output=2.0)
        assert is_direct(loss, z, y, sample_weight=column, where=np.ones((64, 1), bool))
        assert is_direct(loss, padded[:, :10], y.astype(np.uint8), out=np.empty_like(z))
        assert is_direct(loss, z, y, out=z.copy())
    in_place = z.copy()
    assert is_direct(BCE(), in_place, y, out=in_place)
    assert not is_direct(BCE(), z.T, y.T)  # laid out by Python first
    assert not is_direct(BCE(), z, y.tolist())
    overlapping = np.empty(z.size + 5, np.float32)
    given = overlapping[:-5].reshape(z.shape)
    given[...] = 0
    assert not is_direct(BCE(), given, y, out=overlapping[5:].reshape(z.shape))
    assert not is_direct(BCE(), z, y, out=np.empty((64, 10)))


@pytest.mark.parametrize("offset", [0, 1, 3, 16, 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_outputs_go_past_the_caches(dtype, offset, isa, threads, rng):
    """From 8 MB on they are streamed, whole lines at a time: to any address, with the same bits."""
    threads(2)
    size = (8 << 20) // np.dtype(dtype).itemsize + 77
    z, y = batch(rng, size, dtype)
    memory = np.full(size + offset + 5, 7, dtype)
    out = memory[offset : offset + size]
    loss = BCE(reduction="sum")
    value, grad = loss.value_and_grad(z, y, out=out)
    half = size // 2048 * 1024
    parts = [loss.value_and_grad(z[part], y[part]) for part in (slice(half), slice(half, None))]
    np.testing.assert_array_equal(grad, np.concatenate([part[1] for part in parts]))
    assert value == pytest.approx(parts[0][0] + parts[1][0], rel=1e-12)
    assert np.all(memory[:offset] == 7)
    assert np.all(memory[offset + size :] == 7)
    in_place = z.copy()
    loss.value_and_grad(in_place, y, out=in_place)
    np.testing.assert_array_equal(in_place, grad)


@pytest.mark.parametrize("size", [1, 100, 5000, 70_001])
def test_sums_of_weights(size, isa, rng):
    """A mean divides by the exact sum, whatever is repeated or masked."""
    z, y = batch(rng, (size, 3))
    column = rng.random((size, 1)).astype(np.float32)
    for weight in (rng.random((size, 3)), column, rng.random(3), 0.1):
        for mask in (None, rng.random((size, 3)) < 0.5, np.ones((size, 1), bool)):
            full = np.broadcast_to(np.asarray(weight, np.float64), z.shape)
            total = math.fsum((full if mask is None else full * mask).ravel().tolist())
            if total == 0:
                continue
            call = {"sample_weight": weight, "where": mask}
            mean = BCE()(z, y, **call)
            assert mean == pytest.approx(BCE(reduction="sum")(z, y, **call) / total, rel=4e-16)
