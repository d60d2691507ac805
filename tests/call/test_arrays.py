"""Arrays of every shape and type: the right answer, or a clear error and nothing written."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from batches import on_grid
from cases import LOSSES, REDUCTIONS, SIGMOID, SOFTMAX, small_batch
from processes import peak
from refusals import CLASSES, MARK, ROWS, Failing, refuse

import fastce

INF, NAN = np.inf, np.nan


# Shapes -------------------------------------------------------------------------------------------

EMPTY = [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3), (2, 3, 0), (0, 2**40), (2**40, 0)]


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_empty_everything(loss, dtype, shape, isa):
    z = np.zeros(shape, dtype)
    y = np.zeros(shape, np.uint8)
    if loss in SOFTMAX:
        if shape[:-1] and np.prod(shape[:-1], dtype=float) > 1e6:
            y = np.broadcast_to(np.int64(-100), (100,))
            z = np.zeros((100, 0), dtype)
        else:
            y = np.full(shape[:-1], -100)
    for reduction in REDUCTIONS:
        made = getattr(fastce, loss)(reduction=reduction)
        weight = np.ones(y.shape)
        for call in ({}, {"sample_weight": weight}, {"where": np.ones(z.shape, bool)}):
            value, grad, hess = made.value_grad_hess(z, y, **call)
            assert grad.shape == hess.shape == z.shape
            if reduction == "none":
                assert value.shape == y.shape
                assert not value.any()
            else:
                assert value == 0 if reduction == "sum" else np.isnan(value)


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
    """2.8·10⁹ elements, all copies of one row: right, in seconds, and without a copy in memory."""
    row = np.arange(140, dtype=np.float32) / 32
    z = np.broadcast_to(row, (20_000_000, 140))
    y = np.broadcast_to(np.int8(3), 20_000_000)
    loss = fastce.SoftmaxCrossEntropy()
    values = []
    assert peak(lambda: values.append(loss(z, y))) < z.nbytes / 1000
    assert values == [pytest.approx(loss(z[:1], y[:1]), rel=1e-6)]
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
    values, targets = [], np.broadcast_to(y, rows.shape)
    assert peak(lambda: values.append(made(rows, targets))) < rows.nbytes / 1000
    assert values == [pytest.approx(expected, rel=1e-6)]
    flat = made(np.broadcast_to(z[3], shape), np.broadcast_to(y[3], shape))
    assert flat == pytest.approx(made(z[3], y[3]), rel=1e-6)
    columns = made(np.broadcast_to(z, shape), np.broadcast_to(y[:1], shape))
    assert columns == pytest.approx(made(z, np.ones(140)), rel=1e-6)


# What is not an array ----------------------------------------------------------------------------


class Liar:
    """Claims to have another shape and type than its array."""

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
    made, ones = getattr(fastce, loss)(), np.ones(y.shape)
    expected = made.value_and_grad(z, y, sample_weight=ones)
    for wrap in (Liar, lambda a: a.view(Growing)):
        result = made.value_and_grad(wrap(z), wrap(y), sample_weight=wrap(ones))
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
        with pytest.raises(RuntimeError, match="no array today") as raised:
            getattr(fastce, loss)(reduction="none").value_and_grad(z, y, **{name: Failing()})
        assert raised.value.__notes__ == [f"{name} cannot be converted to an array"]


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
        np.zeros((ROWS, CLASSES), ml_dtypes.float8_e5m2),  # NumPy counts it among the floats
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
    if bad is not None:
        with pytest.raises((TypeError, ValueError), match="sample_weight"):
            made.value_and_grad(z, y, sample_weight=bad)


@pytest.mark.parametrize("loss", LOSSES)
def test_ragged_lists_and_masked_arrays(loss):
    z, y = small_batch(loss)
    refuse(ValueError, r"logits.*inhomogeneous", loss, [[1.0, 2.0], [3.0]], y)
    refuse(ValueError, r"target.*inhomogeneous", loss, z, [[1], [1, 2]])
    refuse(TypeError, "logits is a masked array", loss, np.ma.masked_array(z), y)
    refuse(TypeError, "target is a masked array", loss, z, np.ma.masked_array(y))
    refuse(TypeError, "logits is a masked array", loss, Masked(z), y)
    refuse(TypeError, "target is a masked array", loss, z, Masked(y))


class Masked:
    """Converts itself to a masked array."""

    def __init__(self, data):
        self.data = data

    def __array__(self, dtype=None, copy=None):
        return np.ma.masked_array(self.data, mask=True, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_fields_of_records_and_mapped_files(loss, dtype):
    """Logits, target and output in one record, in a file: nothing is aligned for vectors."""
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


# Values and messages ------------------------------------------------------------------------------


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
    """An error shows the value that came, but not a million numbers."""
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


# Types and shapes of all arguments ----------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [np.complex64, object, np.int64, np.uint8, bool, "U3", "M8[s]"])
def test_logits_of_the_wrong_type(loss, dtype):
    z, y = small_batch(loss)
    refuse(TypeError, "logits", loss, np.zeros(z.shape, dtype), y)


@pytest.mark.parametrize("loss", LOSSES)
def test_long_double_is_double_where_it_has_eight_bytes(loss):
    z, y = small_batch(loss)
    z = z.astype(np.longdouble)
    if z.itemsize > 8:
        refuse(TypeError, "logits", loss, z, y)
        return
    expected, found = (getattr(fastce, loss)().value_and_grad(x, y) for x in (z.astype(float), z))
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_lists(loss):
    z, y = small_batch(loss)
    wide = z.astype(np.float64)
    lists = getattr(fastce, loss)().value_and_grad(wide.tolist(), y.tolist())
    arrays = getattr(fastce, loss)().value_and_grad(wide, y)
    assert lists[0] == arrays[0]
    np.testing.assert_array_equal(lists[1], arrays[1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["sample_weight", "where", "grad_output"])
def test_arguments_that_do_not_broadcast(loss, name):
    z, y = small_batch(loss)
    bad = np.ones((5, 2), dtype=bool if name == "where" else float)
    with pytest.raises(ValueError, match=name):
        getattr(fastce, loss)(reduction="none").value_and_grad(z, y, **{name: bad})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "bad", [1, 0.0, "yes", [None, True, True], np.ones(CLASSES, np.uint8)], ids=str
)
def test_masks_that_are_not_bool(loss, bad):
    refuse(TypeError, "where", loss, *small_batch(loss), where=bad)


@pytest.mark.parametrize("loss", LOSSES)
def test_true_in_any_byte(loss):
    """A bool that is stored as 255, which NumPy takes for true, is true."""
    z, y = small_batch(loss)
    odd = np.full(z.shape, 255, np.uint8).view(bool)
    expected = getattr(fastce, loss)().value_and_grad(z, y, where=np.ones(z.shape, bool))
    value, grad = getattr(fastce, loss)().value_and_grad(z, y, where=odd)
    assert value == expected[0]
    np.testing.assert_array_equal(grad, expected[1])
