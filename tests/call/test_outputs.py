"""Outputs, weights and options of every wrong kind: a clear error and nothing written."""

from __future__ import annotations

import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest
from cases import FUNCTIONS, SOFTMAX, small_batch
from refusals import CLASSES, MARK, ROWS, Failing, refuse

import fastce

INF, NAN = np.inf, np.nan
LOSSES = tuple(FUNCTIONS)
SIGMOID = tuple(loss for loss in LOSSES if loss not in SOFTMAX)


# Outputs ------------------------------------------------------------------------------------------


def interleaved(name):
    """An output whose elements lie between those of an input: they overlap in extent alone."""
    room = np.zeros((ROWS, 2 * CLASSES), np.float32)
    return room[:, ::2], room[:, 1::2]


@pytest.mark.parametrize("loss", LOSSES)
def test_output_between_the_logits_is_no_overlap(loss):
    z, y = small_batch(loss)
    logits, out = interleaved(loss)
    logits[...] = z
    expected = getattr(fastce, loss)().value_and_grad(z, y)
    value, grad = getattr(fastce, loss)().value_and_grad(logits, y, out=out)
    assert value == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(grad, expected[1], rtol=4e-6, atol=1e-8)
    np.testing.assert_array_equal(logits, z)


@pytest.mark.parametrize("which", ["sample_weight", "where", "grad_output", "target"])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("loss", LOSSES)
def test_output_that_overlaps_any_input(loss, position, which):
    """One shared byte is enough."""
    z, y = small_batch(loss)
    room = np.zeros(4 * z.nbytes + 4, np.uint8)
    shape = y.shape
    dtypes = {"where": bool, "target": np.int8, "sample_weight": np.float64, "grad_output": "f8"}
    shape = z.shape if which == "where" else shape
    size = int(np.prod(shape)) * np.dtype(dtypes[which]).itemsize
    shared = room[:size].view(dtypes[which]).reshape(shape)
    start = (size - 1) // 4 * 4
    out = room[start : start + z.nbytes].view(np.float32).reshape(z.shape)
    assert np.shares_memory(shared, out)
    shared[...] = y if which == "target" else 1
    before = room.copy()
    other = np.full_like(z, MARK)
    outs = (out, other) if position == 0 else (other, out)
    call = {} if which == "target" else {which: shared}
    target = shared if which == "target" else y
    with pytest.raises(ValueError, match="overlap"):
        getattr(fastce, loss)(reduction="none").value_grad_hess(z, target, out=outs, **call)
    np.testing.assert_array_equal(room, before)
    assert (other == MARK).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_logits_again_but_read_otherwise(loss):
    """out=logits is one array, not one address."""
    z, y = small_batch(loss)
    square = np.zeros((3, 3), np.float32)
    labels = y[:3]
    with pytest.raises(ValueError, match="overlap"):
        getattr(fastce, loss)().value_and_grad(square, labels, out=square.T)
    with pytest.raises(ValueError, match="overlap"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=(z, z))
    assert not square.any()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "out",
    [
        0,
        "out",
        [np.zeros((ROWS, CLASSES), np.float32)],
        np.float32(1),
        np.ma.zeros((ROWS, CLASSES)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_outputs_that_are_no_arrays(loss, out):
    z, y = small_batch(loss)
    with pytest.raises((TypeError, ValueError), match="out"):
        getattr(fastce, loss)().value_and_grad(z, y, out=out)
    with pytest.raises((TypeError, ValueError), match="out"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=(None, out))
    with pytest.raises(ValueError, match="tuple of 2"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=np.zeros_like(z))


class LyingOutput(np.ndarray):
    """Says that it is larger than its memory, contiguous, and free to be written to."""

    class Flags:
        writeable = c_contiguous = True
        f_contiguous = False

    shape = property(lambda self: (ROWS, CLASSES))
    strides = property(lambda self: (4 * CLASSES, 4))
    size = property(lambda self: ROWS * CLASSES)
    ndim = property(lambda self: 2)
    flags = property(lambda self: self.Flags)


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_that_lie(loss):
    """What counts is the memory of an output, not what a subclass says about it."""
    z, y = small_batch(loss)
    room = np.full((2 * ROWS, CLASSES), MARK, np.float32)
    read_only = room[:ROWS]
    read_only.flags.writeable = False
    for memory, match in ((room[:2], "shape"), (read_only, "read-only")):
        out = memory.view(LyingOutput)
        with pytest.raises(ValueError, match=match):
            getattr(fastce, loss)().value_and_grad(z, y, out=out)
        with pytest.raises(ValueError, match=match):
            getattr(fastce, loss)().value_grad_hess(z, y, out=(None, out))
        with pytest.raises(ValueError, match=match):
            fastce.softmax(z, out=out)
    assert (room == MARK).all()
    strided = np.full((ROWS, 2 * CLASSES), MARK, np.float32)
    out = strided[:, ::2].view(LyingOutput)
    assert getattr(fastce, loss)().value_and_grad(z, y, out=out)[1] is out
    expected = getattr(fastce, loss)().value_and_grad(z, y)[1]
    np.testing.assert_allclose(strided[:, ::2], expected, rtol=4e-6, atol=1e-8)
    assert (strided[:, 1::2] == MARK).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_subclass_of_an_array_is_handed_back_itself(loss):
    z, y = small_batch(loss)
    expected = getattr(fastce, loss)().value_grad_hess(z, y)
    for kind in (np.matrix, np.recarray, LyingOutput):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # np.matrix
            outs = tuple(np.zeros(z.shape, z.dtype).view(kind) for _ in range(2))
            result = getattr(fastce, loss)().value_grad_hess(z, y, out=outs)
        for i in range(2):
            assert result[i + 1] is outs[i]
            np.testing.assert_array_equal(np.asarray(outs[i]), expected[i + 1])


class Reshaping:
    """Changes the shape of another array while it is converted itself."""

    def __init__(self, array, shape, other):
        self.array, self.shape, self.other = array, shape, other

    def __array__(self, dtype=None, copy=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.other.shape = self.shape
        return self.array


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("which", ["logits", "target"])
@pytest.mark.parametrize("loss", LOSSES)
def test_arrays_that_are_reshaped_after_their_check(loss, which, reduction):
    """The shape that was checked is the one that is used."""
    z, y = small_batch(loss)
    made = getattr(fastce, loss)(reduction=reduction)
    expected = made.value_grad_hess(z, y)
    other = {"logits": z, "target": y}[which]
    weight = Reshaping(np.ones(y.shape), (other.size, 1), other)
    for a, b in zip(made.value_grad_hess(z, y, sample_weight=weight), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_outputs_of_functions(name):
    z = np.arange(18, dtype=np.float32).reshape(ROWS, CLASSES)
    before = z.copy()
    function = getattr(fastce, name)
    shape = (ROWS,) if name == "logsumexp" else z.shape
    read_only = np.zeros(shape, np.float32)
    read_only.flags.writeable = False
    for out in (
        np.zeros((2, 2), np.float32),
        np.zeros(shape, np.float64),
        read_only,
        z.reshape(-1)[:ROWS] if name == "logsumexp" else z[::-1],
    ):
        with pytest.raises(ValueError, match="out"):
            function(z, out=out)
    with pytest.raises(TypeError, match="out"):
        function(z, out=[0.0])
    np.testing.assert_array_equal(z, before)


# Weights and other numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("1", TypeError),
        (1j, TypeError),
        (object(), TypeError),
        (np.ones(ROWS, object), TypeError),
        (np.ones(ROWS, "M8[s]"), TypeError),
        (np.zeros(ROWS, [("x", "f4")]), TypeError),
        (np.ma.ones(ROWS), TypeError),
        ([[1.0], [1.0, 2.0]], ValueError),
        (NAN, ValueError),
        (INF, ValueError),
        (-INF, ValueError),
        (np.ones(ROWS + 1), ValueError),
        (np.ones((1, 1, ROWS, CLASSES)), ValueError),
        (np.ones(0), ValueError),
    ],
    ids=str,
)
def test_sample_weights_of_every_wrong_kind(loss, bad, error):
    refuse(error, "sample_weight", loss, *small_batch(loss), sample_weight=bad)


@pytest.mark.parametrize(
    "good", [True, 1, np.uint64(1), np.float16(1), np.ones((), ml_dtypes.bfloat16), [1.0] * CLASSES]
)
@pytest.mark.parametrize("loss", SIGMOID)
def test_sample_weights_of_every_right_kind(loss, good):
    z, y = small_batch(loss)
    expected = getattr(fastce, loss)().value_and_grad(z, y)
    value, grad = getattr(fastce, loss)().value_and_grad(z, y, sample_weight=good)
    assert value == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4", ">f8", ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [NAN, -NAN, INF, -INF])
def test_one_bad_weight_among_good_ones(dtype, bad):
    """Wherever it is, a vector of NumPy's does not pass it over."""
    for count in (1, 2, 9, 33, 70):
        for position in range(count):
            weight = np.ones(count, dtype)
            weight[position] = bad
            z = np.zeros((count, 1), np.float32)
            with pytest.raises(ValueError, match=rf"sample_weight .* at position {position}$"):
                fastce.SoftmaxCrossEntropy()(z, np.zeros(count, int), sample_weight=weight)


@pytest.mark.parametrize("loss", SIGMOID)
def test_weights_are_checked_without_an_array_of_their_size(loss):
    """A stride of 0 repeats a weight without end; others are looked at where they lie."""
    huge = (2, 1 << 40)
    logits, target = np.broadcast_to(np.float32(0), huge), np.broadcast_to(np.False_, huge)
    for bad in (-INF, NAN, INF):
        weight = np.broadcast_to([[1.0], [bad]], huge)
        with pytest.raises(ValueError, match=r"finite, got .* at position \(1, 0\)"):
            getattr(fastce, loss)()(logits, target, sample_weight=weight)
    weight = np.broadcast_to([[1.0], [-2.0]], huge)
    with pytest.raises(ValueError, match=rf"positive, got {-(2.0**40)}"):
        getattr(fastce, loss)()(logits, target, sample_weight=weight)
    weight = np.ones(1 << 20, np.float32)
    tracemalloc.start()
    try:
        getattr(fastce, loss)(reduction="sum")(weight, weight, sample_weight=weight)
        assert tracemalloc.get_traced_memory()[1] < weight.nbytes / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("SoftmaxCrossEntropy", "weight"),
        ("SoftmaxFocalLoss", "alpha"),
        ("BCEWithLogits", "pos_weight"),
    ],
)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (["a", "b", "c"], TypeError),
        ([1j, 1, 1], TypeError),
        (np.ones(3, object), TypeError),
        (np.ma.ones(3), TypeError),
        ([[1], [1, 2]], ValueError),
        ([1, -1e-300, 1], ValueError),
        ([1, 1, INF], ValueError),
        (np.full(3, np.longdouble(10) ** 400), ValueError),
        (Failing(), RuntimeError),
    ],
    ids=str,
)
def test_array_options_of_every_wrong_kind(loss, name, bad, error):
    with pytest.raises(error, match="no array today" if error is RuntimeError else name):
        getattr(fastce, loss)(**{name: bad})


@pytest.mark.parametrize("shape", [(), (3, 1), (1, 3)])
@pytest.mark.parametrize(
    ("loss", "name"), [("SoftmaxCrossEntropy", "weight"), ("SoftmaxFocalLoss", "alpha")]
)
def test_class_weights_have_one_axis(loss, name, shape):
    with pytest.raises(ValueError, match=name):
        getattr(fastce, loss)(**{name: np.ones(shape)})


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("SoftmaxCrossEntropy", "label_smoothing"),
        ("SoftmaxCrossEntropy", "z_loss"),
        ("SoftmaxCrossEntropy", "logit_scale"),
        ("SoftmaxCrossEntropy", "softcap"),
        ("SoftmaxFocalLoss", "gamma"),
        ("BCEWithLogits", "label_smoothing"),
        ("SigmoidFocalLoss", "gamma"),
        ("SigmoidFocalLoss", "alpha"),
    ],
)
@pytest.mark.parametrize(
    "bad",
    ["0.5", b"0.5", 1j, [0.5], np.array([0.5]), {}, object, 10**400, -(10**400), "nan"],
    ids=str,
)
def test_numbers_of_every_wrong_kind(loss, name, bad):
    error = ValueError if isinstance(bad, int) else TypeError
    if name == "alpha" and isinstance(bad, list | np.ndarray):
        bad = [0.5, "0.5"]  # an array of numbers is accepted
    with pytest.raises(error, match=name):
        getattr(fastce, loss)(**{name: bad})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", ["3", [3.0], np.ones(ROWS), 1j, 10**400], ids=str)
def test_normalizers_of_every_wrong_kind(loss, bad):
    error = ValueError if isinstance(bad, int) else TypeError
    refuse(error, "normalizer", loss, *small_batch(loss), normalizer=bad)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("name", ["ignore_index", "axis"])
@pytest.mark.parametrize("bad", [1.0, "1", None, [1], np.array([1]), 2**63, -(2**63) - 1], ids=str)
def test_integers_of_every_wrong_kind(loss, name, bad):
    with pytest.raises((TypeError, ValueError), match=name):
        getattr(fastce, loss)(**{name: bad})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "bad",
    [None, "Mean", b"mean", ["mean"], np.array(["mean"]), np.array(["mean", "sum"]), 0],
    ids=repr,
)
def test_reductions_of_every_wrong_kind(loss, bad):
    with pytest.raises(ValueError, match="reduction must be"):
        getattr(fastce, loss)(reduction=bad)


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
