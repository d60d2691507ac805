"""Options of a loss: out of range, of a wrong type, or not fit for the logits."""

from __future__ import annotations

import enum
import inspect
import re
from array import array

import numpy as np
import pytest
from cases import DISTILLATION, LOSSES, SOFTMAX, small_batch
from refusals import Failing

import fastce

INF, NAN = np.inf, np.nan


# Ranges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        *[("SoftmaxFocalLoss", {"gamma": x}) for x in (-0.5, NAN, INF)],
        *[("SigmoidFocalLoss", {"gamma": x}) for x in (-0.5, NAN, INF)],
        *[("SoftmaxCrossEntropy", {"label_smoothing": x}) for x in (-0.1, 1.1, NAN)],
        *[("BCEWithLogits", {"label_smoothing": x}) for x in (-0.1, 1.1, NAN)],
        *[("SigmoidFocalLoss", {"label_smoothing": x}) for x in (-0.1, 1.1, NAN)],
        *[("SigmoidFocalLoss", {"alpha": x}) for x in (-0.1, 1.1, NAN, [0.5, 1.5], [NAN])],
        *[("SoftmaxCrossEntropy", {"softcap": x}) for x in (0, -5.0, NAN)],
        *[("SoftmaxCrossEntropy", {"z_loss": x}) for x in (NAN, INF)],
        *[("SoftmaxCrossEntropy", {"logit_scale": x}) for x in (NAN, INF)],
        *[("SoftmaxKLDivergence", {"temperature": x}) for x in (0, -1.0, NAN, INF)],
    ],
)
def test_options_out_of_range(loss, options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        getattr(fastce, loss)(**options)


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no words today")


@pytest.mark.parametrize("value", [10**5000, Unprintable()], ids=["5,001 digits", "no repr"])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_that_cannot_be_printed(loss, value):
    """Python prints no integer of more than 4,300 digits."""
    for name in inspect.signature(getattr(fastce, loss)).parameters:
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b.*(got|converted)"):
            getattr(fastce, loss)(**{name: value})


@pytest.mark.parametrize("loss", LOSSES)
def test_long_values_are_shown_in_part(loss):
    with pytest.raises(ValueError, match=r"^reduction .*got 'mean, mean, .*\.\.\.$") as caught:
        getattr(fastce, loss)(reduction="mean, " * 1000)
    assert len(str(caught.value)) < 200


class Reduction(str, enum.Enum):  # noqa: UP042 (a StrEnum is printed as its value)
    SUM = "sum"


@pytest.mark.parametrize("reduction", [np.str_("sum"), Reduction.SUM])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_string_of_another_type_is_a_reduction(loss, reduction):
    made = getattr(fastce, loss)(reduction=reduction)
    z, y = small_batch(loss)
    assert repr(made) == f"{loss}(reduction='sum')"
    assert made(z, y) == getattr(fastce, loss)(reduction="sum")(z, y)


@pytest.mark.parametrize("read_only", [False, True])
def test_options_without_a_hash(read_only, rng):
    """The functions keep losses by their options."""
    weight = np.array([0.5, 1.0, 2.0])
    weight.flags.writeable = not read_only
    z, y = small_batch("SoftmaxCrossEntropy")
    expected = fastce.softmax_cross_entropy(z, y, weight=weight)
    value, grad = fastce.softmax_cross_entropy(z, y, weight=memoryview(weight))
    assert value == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_options_are_keywords(loss):
    with pytest.raises(TypeError, match=f"{loss}.*positional argument"):
        getattr(fastce, loss)(0.5)
    with pytest.raises(TypeError, match=f"{loss}.*no_such_option"):
        getattr(fastce, loss)(no_such_option=1)


@pytest.mark.parametrize(
    ("loss", "options"),
    [("SoftmaxCrossEntropy", {"weight": np.ones(4)}), ("SoftmaxFocalLoss", {"alpha": np.ones(4)})],
)
def test_class_weights_of_the_wrong_length(loss, options):
    with pytest.raises(ValueError, match=r"4.*3|3.*4"):
        getattr(fastce, loss)(**options)(*small_batch(loss))


# Types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("SoftmaxCrossEntropy", "weight"),
        ("SoftmaxFocalLoss", "alpha"),
        ("BCEWithLogits", "pos_weight"),
        ("SigmoidFocalLoss", "alpha"),
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
        ([1, -1, 1], ValueError),
        ([1, -1e-300, 1], ValueError),
        ([1, NAN, 1], ValueError),
        ([1, 1, INF], ValueError),
        (np.full(3, "1e400").astype(np.longdouble), ValueError),  # inf on some platforms
        (Failing(), RuntimeError),
    ],
    ids=lambda x: re.sub(" at 0x.*", "", str(x)),
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


NUMBERS = {"label_smoothing", "z_loss", "logit_scale", "softcap", "gamma", "temperature"}


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        *[
            (loss, name)
            for loss in (*LOSSES, DISTILLATION)
            for name in inspect.signature(getattr(fastce, loss)).parameters
            if name in NUMBERS
        ],
        ("SigmoidFocalLoss", "alpha"),
    ],
)
@pytest.mark.parametrize(
    "bad",
    [
        *("0.5", b"0.5", 1j, [0.5], np.array([0.5]), {}, object, 10**400, -(10**400), "nan"),
        *(np.complex128(0.5), np.array("0.5"), np.array(b"0.5"), array("B", b"0.5")),
        *(np.timedelta64(1, "ns"), np.datetime64(1, "ns"), np.ma.masked),
    ],
    ids=repr,
)
def test_numbers_of_every_wrong_kind(loss, name, bad):
    error = ValueError if isinstance(bad, int) else TypeError
    if name == "alpha" and np.ndim(bad):
        bad = [0.5, "0.5"]  # an array of numbers is accepted
    with pytest.raises(error, match=name):
        getattr(fastce, loss)(**{name: bad})


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("name", ["ignore_index", "axis"])
@pytest.mark.parametrize(
    "bad", [1.0, "1", None, [1], (0, 1), np.array([1]), 2**63, -(2**63) - 1], ids=str
)
def test_integers_of_every_wrong_kind(loss, name, bad):
    with pytest.raises((TypeError, ValueError), match=name):
        getattr(fastce, loss)(**{name: bad})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "bad",
    [None, "average", "Mean", b"mean", ["mean"], np.array(["mean"]), np.array(["mean", "sum"]), 0],
    ids=repr,
)
def test_reductions_of_every_wrong_kind(loss, bad):
    with pytest.raises(ValueError, match="reduction must be"):
        getattr(fastce, loss)(reduction=bad)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("axis", [2**31, -(2**31) - 1, 2**62, 64, -65])
def test_an_axis_that_no_array_has(loss, axis):
    with pytest.raises(np.exceptions.AxisError, match=rf"between -64 and 63, got {axis}"):
        getattr(fastce, loss)(axis=axis)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("axis", [2, -3, 63])
def test_an_axis_that_these_logits_lack(loss, axis):
    for dtype in (np.float32, np.int64):
        y = np.zeros(4, int)
        with pytest.raises((np.exceptions.AxisError, TypeError), match=rf"axis={axis}|logits"):
            getattr(fastce, loss)(axis=axis)(np.zeros((4, 3), dtype), y)


def test_alpha_that_is_no_number_between_0_and_1():
    for alpha in (NAN, INF, 2, -0.5):
        with pytest.raises(ValueError, match=rf"alpha must be in \[0, 1\], got {alpha}"):
            fastce.SigmoidFocalLoss(alpha=alpha)


def test_array_options_are_values():
    loss = fastce.SoftmaxCrossEntropy(weight=[0.0, 1.0])
    assert loss == fastce.SoftmaxCrossEntropy(weight=[-0.0, 1.0])
    with pytest.raises(ValueError, match="WRITEABLE"):
        loss.weight.flags.writeable = True


def test_an_error_of_a_function_comes_alone():
    z, y = small_batch("SoftmaxCrossEntropy")
    for options in ({"weight": [-1.0] * z.shape[1]}, {"label_smoothing": 2.0}):
        with pytest.raises(ValueError, match="must be") as of_class:
            fastce.SoftmaxCrossEntropy(**options)
        with pytest.raises(ValueError, match="must be") as of_function:
            fastce.softmax_cross_entropy(z, y, **options)
        assert of_function.value.__context__ is of_class.value.__context__  # usually None
