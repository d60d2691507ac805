"""Outputs that are refused, with nothing written, and those that are taken as they are."""

from __future__ import annotations

import collections
import warnings

import numpy as np
import pytest
from cases import DTYPES, LOSSES, THOROUGH, small_batch
from layouts import LAYOUTS, read_only
from refusals import CLASSES, MARK, ROWS

import fastce

INF, NAN = np.inf, np.nan


# Memory and type ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_output_between_the_logits_is_no_overlap(loss):
    """Its elements lie between those of the input: only their extents overlap."""
    z, y = small_batch(loss)
    room = np.zeros((ROWS, 2 * CLASSES), np.float32)
    logits, out = room[:, ::2], room[:, 1::2]
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
    dtypes = {"where": bool, "target": np.int8, "sample_weight": np.float64, "grad_output": "f8"}
    shape = z.shape if which == "where" else y.shape
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
    """out=logits means the same array, not the same address."""
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
        np.ma.zeros((ROWS, CLASSES), np.float32),
    ],
    ids=lambda x: type(x).__name__,
)
def test_outputs_that_are_no_arrays(loss, out):
    z, y = small_batch(loss)
    with pytest.raises((TypeError, ValueError), match="out"):
        getattr(fastce, loss)().value_and_grad(z, y, out=out)
    with pytest.raises((TypeError, ValueError), match="out"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=(None, out))
    with pytest.raises(TypeError, match="tuple of 2"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=np.zeros_like(z))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_named_tuple_of_outputs(loss):
    z, y = small_batch(loss)
    outs = collections.namedtuple("Derivatives", "grad hess")(np.empty_like(z), np.empty_like(z))
    expected = getattr(fastce, loss)().value_grad_hess(z, y)
    result = getattr(fastce, loss)().value_grad_hess(z, y, out=outs)
    for i in range(2):
        assert result[i + 1] is outs[i]
        np.testing.assert_array_equal(outs[i], expected[i + 1])


@pytest.mark.parametrize("loss", ["BCEWithLogits", "SigmoidFocalLoss"])
def test_numbers_are_no_outputs(loss):
    for out in (5, 5.0, np.float64(5.0)):
        with pytest.raises(TypeError, match=r"^out must be a NumPy array, got"):
            getattr(fastce, loss)().value_and_grad(np.array(0.5), 1, out=out)
        with pytest.raises(TypeError, match=r"^loss_out must be a NumPy array, got"):
            getattr(fastce, loss)(reduction="none")(np.array(0.5), 1, loss_out=out)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("out", [[], 5, "ab", np.zeros((2, ROWS, CLASSES), np.float32)], ids=repr)
def test_two_outputs_are_a_tuple(loss, out):
    z, y = small_batch(loss)
    with pytest.raises(TypeError, match=r"^out must be a tuple of 2 arrays, got (list|int|str|nd)"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=out)
    with pytest.raises(ValueError, match=r"^out must be a tuple of 2 arrays, got a tuple of 1$"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=(None,))


def test_inputs_that_are_converted_are_not_overwritten():
    z = np.arange(6).reshape(2, 3)
    for name in ("softmax", "log_softmax"):
        with pytest.raises(ValueError, match="out overlaps another argument"):
            getattr(fastce, name)(z, out=z.view(np.float64))
    with pytest.raises(ValueError, match="out overlaps another argument"):
        fastce.logsumexp(z, out=z.view(np.float64)[:, 0])
    y = np.zeros((2, 3), np.longdouble)
    out = y.ravel().view(np.float64)[:6].reshape(2, 3)
    with pytest.raises(ValueError, match="out overlaps another argument"):
        fastce.BCEWithLogits().value_and_grad(np.zeros((2, 3)), y, out=out)
    np.testing.assert_array_equal(z, np.arange(6).reshape(2, 3))


class LyingOutput(np.ndarray):
    """Claims to be larger than its memory, contiguous and writable."""

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
    locked = room[:ROWS]
    locked.flags.writeable = False
    for memory, match in ((room[:2], "shape"), (locked, "read-only")):
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
    """Changes the shape of another array while it is itself converted."""

    def __init__(self, array, shape, other):
        self.array, self.shape, self.other = array, shape, other

    def __array__(self, dtype=None, copy=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.other.shape = self.shape
        return self.array

    def __float__(self):
        return float(self.array)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("which", ["logits", "target"])
@pytest.mark.parametrize("loss", LOSSES)
def test_arrays_that_are_reshaped_after_their_check(loss, which, reduction):
    """The shape that was checked is the one that is used."""
    z, y = small_batch(loss)
    made = getattr(fastce, loss)(reduction=reduction)
    ones = np.ones(y.shape)
    expected = made.value_grad_hess(z, y, sample_weight=ones)
    other = {"logits": z, "target": y}[which]
    weight = Reshaping(ones, (other.size, 1), other)
    for a, b in zip(made.value_grad_hess(z, y, sample_weight=weight), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("which", ["logits", "target"])
@pytest.mark.parametrize("shape", [(300, 4), (2, 150, 4), (1,) * 30 + (1200, 1)], ids=len)
def test_arrays_that_are_reshaped_while_the_call_converts_another(which, shape):
    """By code of the caller that runs inside it; another thread could do the same."""
    z, teacher = np.zeros((1200, 1), np.float32), np.zeros((1200, 1), np.float32)
    changed = {"logits": z, "target": teacher}[which]
    last = Reshaping(np.array(1.0), shape, changed)
    weights = [1.0] * 1199 + [last]
    for loss in (fastce.SoftmaxKLDivergence(), fastce.SoftmaxCrossEntropy()):
        for method in (loss.value_and_grad, loss.value_grad_hess):
            changed.shape = (1200, 1)
            with pytest.raises(RuntimeError, match=f"^{which} was changed by another thread"):
                method(z, teacher, sample_weight=weights)


# Shapes, types, overlaps --------------------------------------------------------------------------


def overlapping_itself():
    return np.lib.stride_tricks.as_strided(np.zeros(10, np.float32), (6, 3), (4, 8))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros((6, 4), np.float32),
        lambda: np.zeros((6,), np.float32),
        lambda: np.zeros((6, 3), np.float64),
        lambda: np.zeros((6, 3), np.float16),
        lambda: np.zeros((6, 3), np.int32),
        lambda: np.broadcast_to(np.zeros(3, np.float32), (6, 3)),
        overlapping_itself,
        lambda: read_only(np.zeros((6, 3), np.float32)),
    ],
)
def test_outputs_that_do_not_fit(loss, make):
    z, y = small_batch(loss)
    out = make()
    with pytest.raises(ValueError, match="out"):
        getattr(fastce, loss)().value_and_grad(z, y, out=out)
    assert not np.asarray(out).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_that_overlap_an_input(loss):
    z, y = small_batch(loss)
    room = np.zeros((7, 3), np.float32)
    room[:6] = z
    logits = room[:6]
    before = room.copy()
    for out in (room[1:], logits[::-1], room.ravel()[1:19].reshape(6, 3)):
        with pytest.raises(ValueError, match="overlap"):
            getattr(fastce, loss)().value_and_grad(logits, y, out=out)
    np.testing.assert_array_equal(room, before)


def test_output_that_overlaps_the_target():
    z = np.zeros((6, 3), np.float32)
    y = np.full((6, 3), 0.25, np.float32)
    for loss in (fastce.BCEWithLogits(), fastce.SigmoidFocalLoss(), fastce.SoftmaxCrossEntropy()):
        with pytest.raises(ValueError, match="overlap"):
            loss.value_and_grad(z, y, out=y)
    assert (y == 0.25).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["one block", *sorted(LAYOUTS.keys() - {"read_only"})])
@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_outputs_of_any_layout(c, layout, dtype):
    """They are handed back, with the bits of fresh arrays."""
    batch, loss = c.batch(dtype), c.build()
    make = {"one block": np.copy, **LAYOUTS}[layout]
    grad, hess = (make(np.full_like(batch.logits, 7)) for _ in range(2))
    for method, out in ((loss.value_and_grad, grad), (loss.value_grad_hess, (grad, hess))):
        expected = method(batch.logits, batch.target, **batch.call)
        grad[...] = 7
        found = method(batch.logits, batch.target, out=out, **batch.call)
        assert found[1] is grad
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert found[2] is hess
