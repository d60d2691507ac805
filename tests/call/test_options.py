"""Every error about labels, options, arguments and outputs, for each loss that it concerns."""

from __future__ import annotations

import numpy as np
import pytest
from cases import FUNCTIONS, SOFTMAX, on_grid, small_batch

import fastce

INF, NAN = np.inf, np.nan
LOSSES = tuple(FUNCTIONS)
SIGMOID = tuple(loss for loss in LOSSES if loss not in SOFTMAX)


# Labels ------------------------------------------------------------------------------------------


def untouched_outputs(z):
    return np.full_like(z, 12345), np.full_like(z, 54321)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("label", [13, -1, 71, -99, -(2**63), 2**63 - 1, 2**31, -(2**31) - 1])
def test_a_label_out_of_range(loss, label):
    """The error names position, value and number of classes; nothing was written."""
    z = on_grid(np.random.default_rng(0), (29, 13)).astype(np.float32)
    before = z.copy()
    y = np.zeros(29, np.int64)
    y[23] = label
    grad, hess = untouched_outputs(z)
    made = getattr(fastce, loss)()
    calls = [
        lambda: made(z, y),
        lambda: made.value_and_grad(z, y),
        lambda: made.value_and_grad(z, y, out=grad),
        lambda: made.value_and_grad(z, y, out=z),
        lambda: made.value_grad_hess(z, y, out=(grad, hess)),
    ]
    for call in calls:
        with pytest.raises(IndexError) as error:
            call()
        message = str(error.value)
        assert "23" in message
        assert str(label) in message
        assert "13" in message
    np.testing.assert_array_equal(z, before)
    assert (grad == 12345).all()
    assert (hess == 54321).all()


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_labels_of_every_integer_type(dtype, rng):
    classes = {"int8": 120, "uint8": 250}.get(dtype, 300)
    z = on_grid(rng, (129, classes)).astype(np.float32)
    y = rng.integers(classes, size=129)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    expected = loss.value_and_grad(z, y)
    for typed in (y.astype(dtype), y.astype(np.dtype(dtype).newbyteorder("S"))):
        for a, b in zip(loss.value_and_grad(z, typed), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        if limit in range(classes):
            continue
        bad = y.astype(dtype)
        bad[7] = limit
        with pytest.raises(IndexError, match=str(limit)):
            loss(z, bad)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_label_with_a_sign_does_not_wrap(dtype):
    """−100 is ignored, also where 156 or 65436 is a class."""
    classes = 200 if dtype == "int8" else 65_500
    y = np.array([3, -100, 7], dtype)
    z = np.zeros((3, classes), np.float32)
    value, grad = fastce.SoftmaxCrossEntropy(reduction="none").value_and_grad(z, y)
    np.testing.assert_array_equal(value == 0, [False, True, False])
    assert not grad[1].any()


def test_an_unsigned_label_does_not_wrap():
    """2⁶⁴ − 100 is not ignore_index."""
    y = np.array([2**64 - 100], np.uint64)
    with pytest.raises(IndexError, match=str(2**64 - 100)):
        fastce.SoftmaxCrossEntropy()(np.zeros((1, 3)), y)


def test_ignore_index_inside_does_not_excuse_other_labels():
    with pytest.raises(IndexError, match="9"):
        fastce.SoftmaxCrossEntropy(ignore_index=1)(np.zeros((3, 3)), [0, 1, 9])


@pytest.mark.parametrize("axis", [1, -1])
def test_the_position_of_a_bad_label_in_an_array(axis):
    shape = (4, 13, 5) if axis == 1 else (4, 5, 13)
    y = np.zeros((4, 5), int)
    y[2, 3] = 77
    with pytest.raises(IndexError, match=r"2, 3.*77|77.*2, 3"):
        fastce.SoftmaxCrossEntropy(axis=axis)(np.zeros(shape, np.float32), y)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("dtype", [bool, np.float32, np.float64, np.complex64, object, "U1"])
def test_labels_of_the_wrong_type(loss, dtype):
    with pytest.raises(TypeError, match="integer"):
        getattr(fastce, loss)()(np.zeros((4, 3)), np.zeros(4).astype(dtype))


def test_focal_takes_no_probabilities():
    with pytest.raises((TypeError, ValueError)):
        fastce.SoftmaxFocalLoss()(np.zeros((4, 3)), np.full((4, 3), 1 / 3))


@pytest.mark.parametrize("loss", SIGMOID)
@pytest.mark.parametrize("bad", [1.5, -0.25, NAN, INF])
def test_a_target_that_is_no_probability(loss, bad):
    z = np.zeros((4, 31), np.float32)
    y = np.zeros((4, 31))
    y[2, 17] = bad
    out = np.full_like(z, 12345)
    with pytest.raises(ValueError, match=r"2, 17") as error:
        getattr(fastce, loss)().value_and_grad(z, y, out=out)
    assert str(bad) in str(error.value)
    assert (out == 12345).all()
    with pytest.raises(ValueError, match="2"):
        getattr(fastce, loss)()(z, np.full(z.shape, 2))


# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        *[("SoftmaxFocalLoss", {"gamma": x}) for x in (-0.5, NAN, INF)],
        *[("SigmoidFocalLoss", {"gamma": x}) for x in (-0.5, NAN, INF)],
        *[("SoftmaxCrossEntropy", {"label_smoothing": x}) for x in (-0.1, 1.1, NAN)],
        *[("BCEWithLogits", {"label_smoothing": x}) for x in (-0.1, 1.1, NAN)],
        *[("SigmoidFocalLoss", {"label_smoothing": x}) for x in (-0.1, 1.1, NAN)],
        *[("SigmoidFocalLoss", {"alpha": x}) for x in (-0.1, 1.1, NAN, [0.5, 1.5], [NAN])],
        *[("SoftmaxCrossEntropy", {"weight": [1, x, 1]}) for x in (-1, NAN, INF)],
        *[("SoftmaxFocalLoss", {"alpha": [1, x, 1]}) for x in (-1, NAN, INF)],
        *[("BCEWithLogits", {"pos_weight": [1, x, 1]}) for x in (-1, NAN, INF)],
        *[("SoftmaxCrossEntropy", {"softcap": x}) for x in (0, -5.0, NAN)],
        *[("SoftmaxCrossEntropy", {"z_loss": x}) for x in (NAN, INF)],
        *[("SoftmaxCrossEntropy", {"logit_scale": x}) for x in (NAN, INF)],
        *[(loss, {"reduction": "average"}) for loss in LOSSES],
    ],
)
def test_options_out_of_range(loss, options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        getattr(fastce, loss)(**options)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_string_of_numpy_is_a_reduction(loss):
    made = getattr(fastce, loss)(reduction=np.str_("sum"))
    z, y = np.ones((1, 1)), [0] if loss.startswith("Softmax") else np.zeros((1, 1))
    assert made(z, y) == getattr(fastce, loss)(reduction="sum")(z, y)


@pytest.mark.parametrize("loss", LOSSES)
def test_options_are_keywords(loss):
    with pytest.raises(TypeError):
        getattr(fastce, loss)(0.5)
    with pytest.raises(TypeError):
        getattr(fastce, loss)(no_such_option=1)


@pytest.mark.parametrize(
    ("loss", "options"),
    [("SoftmaxCrossEntropy", {"weight": np.ones(4)}), ("SoftmaxFocalLoss", {"alpha": np.ones(4)})],
)
def test_class_weights_of_the_wrong_length(loss, options):
    with pytest.raises(ValueError, match=r"4.*3|3.*4"):
        getattr(fastce, loss)(**options)(*small_batch(loss))


@pytest.mark.parametrize("loss", SOFTMAX)
def test_an_axis_that_the_logits_lack(loss):
    with pytest.raises(np.exceptions.AxisError):
        getattr(fastce, loss)(axis=2)(*small_batch(loss))


# Shapes and arguments of the call -----------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(5,), (6, 2), (7, 3), (6, 3, 1), ()])
def test_a_target_of_the_wrong_shape(loss, shape):
    z, y = small_batch(loss)
    with pytest.raises(ValueError, match=r"\(6, 3\)") as error:
        getattr(fastce, loss)()(z, np.zeros(shape, y.dtype))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_target_that_would_fit_axis_1(loss):
    with pytest.raises(ValueError, match="axis=1"):
        getattr(fastce, loss)()(np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 4, 5), int))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_sample_weights_out_of_range(loss, bad):
    z, y = small_batch(loss)
    weight = np.ones(y.shape)
    weight.flat[4] = bad
    out = np.full_like(z, 12345)
    with pytest.raises(ValueError, match="sample_weight"):
        getattr(fastce, loss)().value_and_grad(z, y, sample_weight=weight, out=out)
    assert (out == 12345).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF])
def test_normalizer_out_of_range(loss, bad):
    with pytest.raises(ValueError, match="normalizer"):
        getattr(fastce, loss)()(*small_batch(loss), normalizer=bad)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["sample_weight", "where", "grad_output"])
def test_arguments_that_do_not_broadcast(loss, name):
    z, y = small_batch(loss)
    bad = np.ones((5, 2), dtype=bool if name == "where" else float)
    with pytest.raises(ValueError, match=name):
        getattr(fastce, loss)(reduction="none").value_and_grad(z, y, **{name: bad})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [np.complex64, object, np.int64, np.uint8, bool, "U3", "M8[s]"])
def test_logits_of_the_wrong_type(loss, dtype):
    z, y = small_batch(loss)
    with pytest.raises(TypeError, match="logits"):
        getattr(fastce, loss)()(np.zeros(z.shape, dtype), y)


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_arrays(loss):
    z, y = small_batch(loss)
    with pytest.raises(TypeError, match="mask"):
        getattr(fastce, loss)()(np.ma.masked_array(z), y)
    with pytest.raises(TypeError, match="mask"):
        getattr(fastce, loss)()(z, np.ma.masked_array(y))


@pytest.mark.parametrize("loss", LOSSES)
def test_lists(loss):
    z, y = small_batch(loss)
    wide = z.astype(np.float64)
    lists = getattr(fastce, loss)().value_and_grad(wide.tolist(), y.tolist())
    arrays = getattr(fastce, loss)().value_and_grad(wide, y)
    assert lists[0] == arrays[0]
    np.testing.assert_array_equal(lists[1], arrays[1])


@pytest.mark.parametrize("loss", SOFTMAX)
def test_logits_without_a_class_axis(loss):
    with pytest.raises(ValueError, match="logits"):
        getattr(fastce, loss)()(np.float32(1), 0)


# Outputs -----------------------------------------------------------------------------------------


def overlapping_itself():
    return np.lib.stride_tricks.as_strided(np.zeros(10, np.float32), (6, 3), (4, 8))


def read_only():
    out = np.zeros((6, 3), np.float32)
    out.flags.writeable = False
    return out


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
        read_only,
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
    weight = np.ones((6, 3), np.float32)
    call = {"sample_weight": weight[:, 0] if loss in SOFTMAX else weight}
    with pytest.raises(ValueError, match="overlap"):
        getattr(fastce, loss)().value_and_grad(z, y, out=weight, **call)
    assert (weight == 1).all()
    hess = np.zeros_like(z)
    with pytest.raises(ValueError, match="overlap"):
        getattr(fastce, loss)().value_grad_hess(z, y, out=(hess, hess))
    np.testing.assert_array_equal(room, before)


def test_output_that_overlaps_the_target():
    z = np.zeros((6, 3), np.float32)
    y = np.full((6, 3), 0.25, np.float32)
    for loss in (fastce.BCEWithLogits(), fastce.SigmoidFocalLoss(), fastce.SoftmaxCrossEntropy()):
        with pytest.raises(ValueError, match="overlap"):
            loss.value_and_grad(z, y, out=y)
    assert (y == 0.25).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros((6, 3), np.float32, order="F"),
        lambda: np.zeros((12, 3), np.float32)[::2],
        lambda: np.zeros((6, 9), np.float32)[:, 1::3],
        lambda: np.zeros((6, 3), np.float32)[::-1, ::-1],
        lambda: np.zeros((6, 3), [("pad", "i1"), ("x", "f4")])["x"],
    ],
)
def test_outputs_of_any_strides(loss, make):
    z, y = small_batch(loss)
    expected = getattr(fastce, loss)().value_grad_hess(z, y)
    grad, hess = make(), make()
    result = getattr(fastce, loss)().value_grad_hess(z, y, out=(grad, hess))
    assert result[1] is grad
    assert result[2] is hess
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-9)
