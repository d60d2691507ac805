"""Input that is meant to break it: a clear error and nothing written, or the right answer."""

from __future__ import annotations

import itertools
import re
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cases import FUNCTIONS, SOFTMAX, on_grid, small_batch
from refusals import CLASSES, MARK, ROWS, Failing, refuse

import fastce

INF, NAN = np.inf, np.nan
LOSSES = tuple(FUNCTIONS)
SIGMOID = tuple(loss for loss in LOSSES if loss not in SOFTMAX)
REDUCTIONS = ("mean", "sum", "none")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


# Labels -------------------------------------------------------------------------------------------


def limits(dtype):
    info = np.iinfo(dtype)
    near = [info.min, info.min + 1, info.max - 1, info.max, CLASSES, CLASSES + 1]
    near += [-1, -2] if info.min < 0 else []
    near += [2**63 - 1, 2**63, 2**64 - 100, 2**64 - 99] if dtype == "uint64" else []
    return sorted({x for x in near if x not in range(CLASSES)})


@pytest.mark.parametrize(
    ("dtype", "label"), [(d, x) for d in INTEGERS for x in limits(d)], ids=lambda x: str(x)
)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_labels_at_the_limits(loss, dtype, label):
    z, y = small_batch(loss)
    for order in ("=", "S"):
        bad = y.astype(np.dtype(dtype).newbyteorder(order))
        bad[4] = label
        refuse(IndexError, rf"label {label}\b.*\b4\b.*\b3 classes", loss, z, bad)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_ignore_index_at_the_limits(loss, dtype):
    """Any label of any type can be the one that is ignored, and no other number is."""
    z, y = small_batch(loss)
    info = np.iinfo(dtype)
    for ignored in {info.min, min(info.max, 2**63 - 1)}:
        some = y.astype(dtype)
        some[[1, 4]] = ignored
        made = getattr(fastce, loss)(ignore_index=int(ignored), reduction="none")
        value, grad = made.value_and_grad(z, some)
        kept = some != ignored
        assert (value[~kept] == 0).all()
        assert not grad[~kept].any()
        alone, _ = made.value_and_grad(z[kept], some[kept])
        np.testing.assert_array_equal(value[kept], alone)
    if info.max > 2**63:
        some = y.astype(dtype)
        some[1] = 2**64 - 1
        with pytest.raises(IndexError, match=str(2**64 - 1)):
            getattr(fastce, loss)(ignore_index=-1)(z, some)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("position", [0, 1, 31, 32, 33, 4094, 4095])
def test_the_first_bad_label_is_named(loss, position):
    y = np.zeros(4096, np.int32)
    y[position:] = 5
    with pytest.raises(IndexError, match=rf"label 5 at position {position},"):
        getattr(fastce, loss)()(np.zeros((4096, 3), np.float32), y)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_bad_label_of_a_sample_that_does_not_count_is_an_error_too(loss):
    z, y = small_batch(loss)
    y[2] = 3
    weight = np.ones(ROWS)
    weight[2] = 0
    refuse(IndexError, "label 3", loss, z, y, sample_weight=weight)


# Shapes -------------------------------------------------------------------------------------------

EMPTY = [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3), (2, 3, 0), (0, 2**40), (2**40, 0)]


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_empty_everything(loss, dtype, shape, isa):
    z = np.zeros(shape, dtype)
    y = np.zeros(shape, np.uint8)
    options = {}
    if loss in SOFTMAX:
        if shape[:-1] and np.prod(shape[:-1], dtype=float) > 1e6:
            y = np.broadcast_to(np.int64(-100), (100,))
            z = np.zeros((100, 0), dtype)
        else:
            y = np.full(shape[:-1], -100)
    for reduction in REDUCTIONS:
        made = getattr(fastce, loss)(reduction=reduction, **options)
        weight = np.ones(y.shape)
        for call in ({}, {"sample_weight": weight}, {"where": np.ones(z.shape, bool)}):
            value, grad, hess = made.value_grad_hess(z, y, **call)
            assert grad.shape == hess.shape == z.shape
            if reduction == "none":
                assert value.shape == y.shape
                assert not value.any()
            else:
                assert value == 0 if reduction == "sum" else np.isnan(value)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_no_class_is_a_label_of_zero_classes(loss):
    refuse(IndexError, "0 classes", loss, np.zeros((4, 0), np.float32), np.zeros(4, int))


def test_functions_of_nothing(isa):
    for shape in [(0,), (4, 0), (0, 4), (0, 0), (2, 0, 3)]:
        z = np.zeros(shape, np.float32)
        assert fastce.softmax(z).shape == shape
        assert fastce.log_softmax(z).shape == shape
        np.testing.assert_array_equal(fastce.logsumexp(z), np.full(shape[:-1], -INF))
    result = fastce.token_log_probs(np.zeros((0, 5)), np.zeros(0, int))
    assert [x.shape for x in result] == [(0,)] * 3
    with pytest.raises(IndexError):
        fastce.token_log_probs(np.zeros((2, 0)), [0, 0])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_zero_dimensions(loss, reduction):
    made = getattr(fastce, loss)(reduction=reduction)
    if loss in SOFTMAX:
        with pytest.raises(ValueError, match="class axis"):
            made(np.float32(0), 0)
        value, grad, hess = made.value_grad_hess(np.zeros(3), np.int8(1))
        assert grad.shape == hess.shape == (3,)
    else:
        value, grad, hess = made.value_grad_hess(np.float32(0.5), True)
        assert grad.shape == hess.shape == ()
    assert np.shape(value) == ()
    assert np.isfinite(value)


@pytest.mark.parametrize("loss", LOSSES)
def test_as_many_dimensions_as_numpy_has(loss):
    shape = (2, *(1,) * 61, 2, 3)
    z, rng = np.zeros(shape, np.float32), np.random.default_rng(0)
    z[...] = on_grid(rng, shape)
    y = np.zeros(shape[:-1] if loss in SOFTMAX else shape, int)
    deep = getattr(fastce, loss)().value_and_grad(z, y)
    flat = getattr(fastce, loss)().value_and_grad(
        z.reshape(4, 3), y.reshape(4) if loss in SOFTMAX else y.reshape(4, 3)
    )
    assert deep[0] == flat[0]
    np.testing.assert_array_equal(deep[1].reshape(4, 3), flat[1])


def test_two_billion_elements_through_zero_strides():
    """2.8·10⁹ elements in one row: right, in seconds, and without a copy."""
    row = np.arange(140, dtype=np.float32) / 32
    z = np.broadcast_to(row, (20_000_000, 140))
    y = np.broadcast_to(np.int8(3), 20_000_000)
    loss = fastce.SoftmaxCrossEntropy()
    tracemalloc.start()
    try:
        assert loss(z, y) == pytest.approx(loss(z[:1], y[:1]), rel=1e-6)
        assert tracemalloc.get_traced_memory()[1] < z.nbytes / 1000
    finally:
        tracemalloc.stop()
    flat = np.broadcast_to(np.float32(0.25), (200_000, 140))  # no axis is contiguous
    assert loss(flat, y[:200_000]) == pytest.approx(np.log(140), rel=1e-6)
    wide = np.broadcast_to(np.float32(0.25), (2, 1 << 24))
    assert loss(wide, [0, (1 << 24) - 1]) == pytest.approx(24 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("loss", SIGMOID)
def test_two_billion_independent_elements_through_zero_strides(loss):
    made = getattr(fastce, loss)()
    z, y = np.arange(140, dtype=np.float32) / 32, np.arange(140) % 2 == 0
    expected = made(z, y)
    rows, shape = np.broadcast_to(z, (20_000_000, 140)), (2_000_000, 140)
    tracemalloc.start()
    try:
        assert made(rows, np.broadcast_to(y, rows.shape)) == pytest.approx(expected, rel=1e-6)
        assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 1000
    finally:
        tracemalloc.stop()
    flat = made(np.broadcast_to(z[3], shape), np.broadcast_to(y[3], shape))
    assert flat == pytest.approx(made(z[3], y[3]), rel=1e-6)
    columns = made(np.broadcast_to(z, shape), np.broadcast_to(y[:1], shape))
    assert columns == pytest.approx(made(z, np.ones(140)), rel=1e-6)


# What is not an array ----------------------------------------------------------------------------


class Liar:
    """Says that it has another shape and type than its array."""

    shape = (10**9, 3)
    dtype = np.dtype(np.float32)
    ndim = 2
    size = 3 * 10**9

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return 10**9

    def __array__(self, dtype=None, copy=None):
        return self.array


class Growing(np.ndarray):
    """A subclass whose attributes and operators mislead."""

    @property
    def size(self):
        return 10**6

    def __getitem__(self, index):
        raise AssertionError("asked for an element")

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("asked for arithmetic")

    def __array_function__(self, *args, **kwargs):
        raise AssertionError("asked for a function")


@pytest.mark.parametrize("loss", LOSSES)
def test_arrays_that_lie(loss):
    z, y = small_batch(loss)
    made = getattr(fastce, loss)()
    expected = made.value_and_grad(z, y)
    for wrap in (Liar, lambda a: a.view(Growing)):
        result = made.value_and_grad(wrap(z), wrap(y), sample_weight=wrap(np.ones(y.shape)))
        assert result[0] == expected[0]
        np.testing.assert_array_equal(result[1], expected[1])
        assert type(result[1]) is np.ndarray
    refuse(ValueError, "shape", loss, Liar(z), y[:4])
    refuse(TypeError, "logits", loss, Liar(z.astype(int)), y)


@pytest.mark.parametrize("loss", LOSSES)
def test_arrays_that_fail(loss):
    z, y = small_batch(loss)
    refuse(RuntimeError, "no array today", loss, Failing(), y)
    refuse(RuntimeError, "no array today", loss, z, Failing())
    for name in ("sample_weight", "where", "grad_output"):
        with pytest.raises(RuntimeError, match="no array today"):
            getattr(fastce, loss)(reduction="none").value_and_grad(z, y, **{name: Failing()})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "bad",
    [
        None,
        {},
        {1, 2},
        object(),
        b"123",
        np.zeros((ROWS, CLASSES), [("x", "f4"), ("y", "f4")]),
        np.zeros((ROWS, CLASSES), "V4"),
        np.zeros((ROWS, CLASSES), "m8[s]"),
        np.zeros((ROWS, CLASSES), "S4"),
        np.zeros((ROWS, CLASSES), ml_dtypes.float8_e4m3fn),
        np.zeros((ROWS, CLASSES), ml_dtypes.int4),
        np.zeros((ROWS, CLASSES), np.clongdouble),
    ],
    ids=lambda x: str(getattr(x, "dtype", type(x).__name__)),
)
def test_what_is_neither_logits_nor_target(loss, bad):
    z, y = small_batch(loss)
    made = getattr(fastce, loss)()
    with pytest.raises(TypeError, match="logits must be float16, bfloat16, float32 or float64"):
        made.value_and_grad(bad, y)
    with pytest.raises((TypeError, ValueError), match="target"):
        made.value_and_grad(z, bad)


@pytest.mark.parametrize("loss", LOSSES)
def test_extended_precision_is_not_narrowed_in_secret(loss):
    z, y = small_batch(loss, np.longdouble)
    if z.dtype.itemsize > 8:
        refuse(TypeError, "logits", loss, z, y)


@pytest.mark.parametrize("loss", LOSSES)
def test_ragged_lists(loss):
    z, y = small_batch(loss)
    with pytest.raises(ValueError, match=r"logits.*inhomogeneous"):
        getattr(fastce, loss)()([[1.0, 2.0], [3.0]], y)
    with pytest.raises(ValueError, match=r"target.*inhomogeneous"):
        getattr(fastce, loss)()(z, [[1], [1, 2]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_fields_of_records_and_mapped_files(loss, dtype):
    """Logits, target and output in one record, in a file: nothing is where vectors like it."""
    z, y = small_batch(loss, dtype)
    expected = getattr(fastce, loss)().value_and_grad(z, y)
    label = ("y", "<i2") if loss in SOFTMAX else ("y", "<i2", CLASSES)
    record = np.dtype([("a", "i1"), ("z", dtype, CLASSES), label, ("g", dtype, CLASSES)])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        mapped = np.memmap(Path(folder) / "records", record, "w+", shape=ROWS)
        mapped["z"], mapped["y"], mapped["g"] = z, y, MARK
        value, _ = getattr(fastce, loss)().value_and_grad(
            mapped["z"], mapped["y"], out=np.asarray(mapped["g"])
        )
        assert value == pytest.approx(expected[0], rel=1e-6)
        eps = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(mapped["g"], expected[1], rtol=8 * eps, atol=1e-7)
        np.testing.assert_array_equal(mapped["z"], z)
        np.testing.assert_array_equal(mapped["y"], y)
        read_only = np.memmap(Path(folder) / "records", record, "r")
        with pytest.raises(ValueError, match="read-only"):
            getattr(fastce, loss)().value_and_grad(z, y, out=np.asarray(read_only["g"]))
        del mapped, read_only


# Numbers that do not fit the working precision ---------------------------------------------------

EXTREME = (1e300, 1e-300, 5e-324, 1.7e308)


@pytest.mark.parametrize("x", EXTREME)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_factors_warn_of_nothing(loss, dtype, x):
    """They may overflow or vanish in the result; NumPy's error state never hears of it."""
    z, y = small_batch(loss, dtype)
    soft = y if loss in SOFTMAX else np.where(y, min(x, 1.0), 0.0)
    options = {
        "SoftmaxCrossEntropy": "weight",
        "SoftmaxFocalLoss": "alpha",
        "BCEWithLogits": "pos_weight",
    }
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for reduction, name in itertools.product(REDUCTIONS, ("sample_weight", "grad_output")):
            made = getattr(fastce, loss)(reduction=reduction)
            factor = np.full(y.shape, x) if name == "sample_weight" or reduction == "none" else x
            made.value_grad_hess(z, soft, **{name: factor})
            made.value_grad_hess(z, soft, normalizer=x)
        if loss in options:
            option = {options[loss]: np.full(CLASSES, x)}
            getattr(fastce, loss)(**option).value_grad_hess(z, y)
        if loss == "SoftmaxCrossEntropy":
            fastce.SoftmaxCrossEntropy(weight=np.full(3, x), label_smoothing=0.1).value_grad_hess(
                z, y
            )
            fastce.SoftmaxCrossEntropy().value_grad_hess(z, np.full(z.shape, x))
            fastce.SoftmaxCrossEntropy(z_loss=x).value_grad_hess(z, y)
            fastce.SoftmaxCrossEntropy(logit_scale=x).value_grad_hess(z, y)
            fastce.SoftmaxCrossEntropy(softcap=x).value_grad_hess(z, y)
        elif hasattr(made, "gamma"):
            getattr(fastce, loss)(gamma=x).value_grad_hess(z, y)


@pytest.mark.parametrize("loss", LOSSES)
def test_signalling_nans_do_not_signal(loss):
    bits = np.full((ROWS, CLASSES), 0x7F800001, np.uint32)
    _, y = small_batch(loss)
    with np.errstate(all="raise"):
        value, grad = getattr(fastce, loss)().value_and_grad(bits.view(np.float32), y)
        assert np.isnan(value)
        assert np.isnan(grad).all()
        if loss in SIGMOID:
            with pytest.raises(ValueError, match="target"):
                getattr(fastce, loss)()(np.zeros((ROWS, CLASSES)), bits.view(np.float32))


def test_messages_are_short_whatever_comes():
    """An error shows what came, but not a million numbers of it."""
    huge = np.zeros(1_000_000)
    attempts = [
        lambda: fastce.SoftmaxCrossEntropy()(np.zeros((4, 3)), huge),
        lambda: fastce.SoftmaxCrossEntropy()(np.zeros((4, 3)), [0, 1, 2, 0], sample_weight=huge),
        lambda: fastce.BCEWithLogits()(huge, huge - 1),
        lambda: fastce.SoftmaxCrossEntropy(weight=huge)(np.zeros((4, 3)), [0, 1, 2, 0]),
        lambda: fastce.SoftmaxCrossEntropy(label_smoothing=huge),
        lambda: fastce.BCEWithLogits(pos_weight=huge)(np.zeros(3), np.zeros(3)),
    ]
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError)) as error:
            attempt()
        assert len(re.sub(r"\s+", " ", str(error.value))) < 300
