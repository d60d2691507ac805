"""Every rule for edge cases and every error, for each loss that it concerns."""

from __future__ import annotations

import numpy as np
import pytest
from cases import FUNCTIONS, SOFTMAX, THOROUGH, Batch, case, on_grid
from layouts import LAYOUTS, zero_strides

import fastce

INF, NAN = np.inf, np.nan
LOSSES = tuple(FUNCTIONS)
SIGMOID = tuple(loss for loss in LOSSES if loss not in SOFTMAX)
REDUCTIONS = ("mean", "sum", "none")
SOFTMAX_OPTIONS = [
    ("SoftmaxCrossEntropy", {}),
    ("SoftmaxCrossEntropy", {"z_loss": 0.01, "weight": [1.0, 2.0, 0.5]}),
    ("SoftmaxCrossEntropy", {"softcap": 10.0, "logit_scale": 0.5}),
    ("SoftmaxFocalLoss", {"gamma": 0}),
    ("SoftmaxFocalLoss", {"gamma": 0.5}),
    ("SoftmaxFocalLoss", {"gamma": 2.0, "alpha": [0.25, 1.0, 0.5]}),
]
SIGMOID_OPTIONS = [
    ("BCEWithLogits", {}),
    ("BCEWithLogits", {"pos_weight": 2.0, "label_smoothing": 0.1}),
    *[("SigmoidFocalLoss", {"gamma": gamma}) for gamma in (0, 0.5, 1, 2, 3.7)],
    ("SigmoidFocalLoss", {"gamma": 1.5, "label_smoothing": 0.1, "alpha": None}),
]


def batch_for(loss, rows=6, classes=3):
    """Logits and a target that the loss accepts."""
    rng = np.random.default_rng(7)
    z = on_grid(rng, (rows, classes)).astype(np.float32)
    if loss in SOFTMAX:
        return z, rng.integers(classes, size=rows)
    return z, rng.integers(2, size=z.shape)


# Infinite and NaN logits -------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_minus_infinity_beside_the_target(loss, options, evaluate):
    z = np.array([[1, -INF, 0.5], [-INF, -INF, 2]], np.float32)
    y = np.array([0, 2])
    finite = np.array([[1, -1e30, 0.5], [-1e30, -1e30, 2]], np.float32)
    options = {**options, "reduction": "none"}
    value, grad, hess = evaluate(loss, z, y, options)
    assert np.isfinite(value).all()
    for x in (grad, hess):
        assert np.isfinite(x).all()
        assert not x[~np.isfinite(z)].any()
    if "softcap" not in options:
        for a, b in zip((value, grad, hess), evaluate(loss, finite, y, options), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_minus_infinity_at_the_target(loss, options, evaluate):
    z = np.array([[1, -INF, 0.5], [0, 1, 2]], np.float32)
    value, grad, hess = evaluate(loss, z, [1, 1], {**options, "reduction": "none"})
    assert value[0] == INF
    assert np.isfinite(value[1])
    assert np.isfinite(grad).all()
    assert np.isfinite(hess).all()
    for reduction in ("mean", "sum"):
        value, grad, _ = evaluate(loss, z, [1, 1], {**options, "reduction": reduction})
        assert value == INF
        assert np.isfinite(grad).all()


@pytest.mark.parametrize(
    "row", [[INF, 0, 0], [0, 1, INF], [INF, INF, 0], [INF, -INF, 0], [-INF, -INF, -INF]]
)
@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_a_row_without_a_softmax_is_nan(loss, options, row, evaluate):
    z = np.array([[0, 1, 2], row, [2, 1, 0]], np.float32)
    value, grad, hess = evaluate(loss, z, [0, 2, 1], {**options, "reduction": "none"})
    for x in (value, grad, hess):
        assert np.isnan(x[1]).all()
        assert np.isfinite(x[[0, 2]]).all()


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_nan_stays_in_its_row(loss, options, place, evaluate):
    z = np.array([[0, 1, 2], [0.5, 1, -1], [2, 1, 0]], np.float32)
    z[1, place] = NAN
    value, grad, hess = evaluate(loss, z, [0, 2, 1], {**options, "reduction": "none"})
    for x in (value, grad, hess):
        assert np.isnan(x[1]).all()
        assert np.isfinite(x[[0, 2]]).all()
    for reduction in ("mean", "sum"):
        value, grad, _ = evaluate(loss, z, [0, 2, 1], {**options, "reduction": reduction})
        assert np.isnan(value)
        assert np.isnan(grad[1]).all()
        assert np.isfinite(grad[[0, 2]]).all()


@pytest.mark.parametrize("classes", [3, 10, 33, 100])
def test_nan_stays_in_its_row_whatever_the_kernel(classes, evaluate, rng):
    """Kernels that take several rows at a time keep them apart."""
    z = on_grid(rng, (37, classes)).astype(np.float32)
    bad = rng.random(37) < 0.2
    z[bad, rng.integers(classes, size=bad.sum())] = NAN
    z[3], bad[3] = -INF, True
    z[5, 0], bad[5] = INF, True
    y = rng.integers(classes, size=37)
    for x in evaluate("SoftmaxCrossEntropy", z, y, {"reduction": "none"}):
        assert np.isnan(x[bad]).all()
        assert np.isfinite(x[~bad]).all()


@pytest.mark.parametrize(("loss", "options"), SIGMOID_OPTIONS)
def test_nan_stays_in_its_element(loss, options, evaluate):
    z = np.array([0.5, NAN, -2, NAN, 3], np.float32)
    y = np.array([1.0, 0.0, 1.0, 1.0, 0.3])
    value, grad, hess = evaluate(loss, z, y, {**options, "reduction": "none"})
    for x in (value, grad, hess):
        np.testing.assert_array_equal(np.isnan(x), np.isnan(z))
    value, grad, _ = evaluate(loss, z, y, {**options, "reduction": "sum"})
    assert np.isnan(value)
    np.testing.assert_array_equal(np.isnan(grad), np.isnan(z))


@pytest.mark.parametrize("x", [INF, 1e4])
def test_bce_at_infinity_is_the_limit(x, evaluate):
    z = np.array([x, x, -x, -x], np.float32)
    value, grad, hess = evaluate("BCEWithLogits", z, [1, 0, 1, 0], {"reduction": "none"})
    np.testing.assert_array_equal(value, [0, x, x, 0])
    np.testing.assert_array_equal(grad, [0, 1, -1, 0])
    np.testing.assert_array_equal(hess, [0, 0, 0, 0])


def test_soft_bce_at_infinity_is_the_limit(evaluate):
    z = np.array([INF, -INF], np.float32)
    value, grad, _ = evaluate("BCEWithLogits", z, [0.25, 0.25], {"reduction": "none"})
    np.testing.assert_array_equal(value, [INF, INF])
    np.testing.assert_allclose(grad, [0.75, -0.25], rtol=1e-7)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 3.7])
@pytest.mark.parametrize("x", [INF, 1e4])
def test_sigmoid_focal_at_infinity_is_the_limit(x, gamma, evaluate):
    z = np.array([x, x, -x, -x], np.float32)
    options = {"gamma": gamma, "alpha": None, "reduction": "none"}
    value, grad, hess = evaluate("SigmoidFocalLoss", z, [1, 0, 1, 0], options)
    np.testing.assert_array_equal(value, [0, x, x, 0])
    np.testing.assert_array_equal(grad, [0, 1, -1, 0])
    np.testing.assert_array_equal(hess, [0, 0, 0, 0])


def test_no_zero_times_infinity(evaluate):
    """A weight of 0 silences an infinite loss, and pos_weight 0 an infinite positive."""
    z = np.array([[0, -INF], [0, 0]], np.float32)
    value, grad, _ = evaluate(
        "SoftmaxCrossEntropy", z, [1, 0], {"weight": [1.0, 0.0], "reduction": "none"}
    )
    assert value[0] == 0
    assert np.isfinite(grad).all()
    value, _, _ = evaluate(
        "SoftmaxFocalLoss", z, [1, 0], {"alpha": [1.0, 0.0], "reduction": "none"}
    )
    assert value[0] == 0
    value, _, _ = evaluate(
        "BCEWithLogits", np.array([-INF], np.float32), [1], {"pos_weight": 0.0, "reduction": "none"}
    )
    assert value[0] == 0
    value, grad, hess = evaluate(
        "SigmoidFocalLoss", np.array([-INF], np.float32), [1], {"alpha": 0.0, "reduction": "none"}
    )
    assert value[0] == grad[0] == hess[0] == 0
    value, _, _ = evaluate(
        "SoftmaxCrossEntropy", z, [[1.0, 0.0], [0.5, 0.5]], {"reduction": "none"}
    )
    np.testing.assert_allclose(value, [0, np.log(2)], rtol=1e-6)


def test_a_loss_weight_of_zero_does_not_hide_nan(evaluate):
    """Only ignored samples, masked elements and sample_weight 0 make NaN harmless."""
    z = np.array([[0, NAN, 1]], np.float32)
    for loss, option in (("SoftmaxCrossEntropy", "weight"), ("SoftmaxFocalLoss", "alpha")):
        options = {option: [0.0, 1.0, 1.0], "reduction": "none"}
        for x in evaluate(loss, z, [0], options):
            assert np.isnan(x).all()
    z = np.array([NAN], np.float32)
    for loss, options in (
        ("BCEWithLogits", {"pos_weight": 0.0}),
        ("SigmoidFocalLoss", {"alpha": 0.0}),
    ):
        for x in evaluate(loss, z, [1], {**options, "reduction": "none"}):
            assert np.isnan(x).all()


def test_a_denominator_of_zero(evaluate):
    """Class weights of 0 for all that is left are like nothing left: NaN, and no gradient."""
    z, y = batch_for("SoftmaxCrossEntropy")
    value, grad, hess = evaluate("SoftmaxCrossEntropy", z, y, {"weight": [0.0, 0.0, 0.0]})
    assert np.isnan(value)
    assert not grad.any()
    assert not hess.any()


def test_smoothing_puts_mass_on_minus_infinity(evaluate):
    """Hence +inf, unless the class is masked."""
    z = np.array([[1, -INF, 0.5]], np.float32)
    options = {"label_smoothing": 0.1, "reduction": "none"}
    value, grad, _ = evaluate("SoftmaxCrossEntropy", z, [0], options)
    assert value[0] == INF
    assert np.isfinite(grad).all()
    masked = evaluate("SoftmaxCrossEntropy", z, [0], options, where=[True, False, True])
    fewer = evaluate("SoftmaxCrossEntropy", z[:, [0, 2]], [0], options)
    np.testing.assert_allclose(masked[0], fewer[0], rtol=1e-6)
    np.testing.assert_allclose(masked[1][:, [0, 2]], fewer[1], rtol=1e-6)
    assert masked[1][0, 1] == 0


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_masked_target_is_impossible(loss, evaluate):
    z = np.zeros((2, 3), np.float32)
    where = np.array([[True, False, True], [True, True, True]])
    value, grad, hess = evaluate(loss, z, [1, 1], {"reduction": "none"}, where=where)
    assert value[0] == INF
    assert np.isfinite(value[1])
    assert np.isfinite(grad).all()
    assert np.isfinite(hess).all()


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_row_with_all_classes_masked_is_nan(loss, evaluate):
    z = np.zeros((2, 3), np.float32)
    where = np.array([[False] * 3, [True] * 3])
    value, _, _ = evaluate(loss, z, [1, 1], {"reduction": "none"}, where=where)
    assert np.isnan(value[0])
    assert np.isfinite(value[1])


@pytest.mark.parametrize("loss", SOFTMAX)
def test_huge_finite_logits(loss, evaluate):
    z = np.array([[3e38, -3e38, 0], [3e38, 3e38, -3e38], [-3e38, 0, 3e38]], np.float32)
    value, grad, hess = evaluate(loss, z, [0, 1, 2], {"reduction": "none"})
    (of_two_equal,), *_ = evaluate(loss, np.zeros((1, 2)), [0], {"reduction": "none"})
    assert of_two_equal > 0.1
    np.testing.assert_allclose(value, [0, of_two_equal, 0], rtol=1e-6)
    for x in (grad, hess):
        assert np.isfinite(x).all()


# Ignored, empty, one class -----------------------------------------------------------------------


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_weight_zero_makes_poison_harmless(loss, reduction, poison, evaluate):
    z, y = batch_for(loss)
    weight = np.array([1, 0, 2, 0, 1, 1.0])
    if loss in SIGMOID:
        weight = weight[:, None]
    poisoned = z.copy()
    poisoned[[1, 3]] = poison
    clean = evaluate(loss, z, y, {"reduction": reduction}, sample_weight=weight)
    result = evaluate(loss, poisoned, y, {"reduction": reduction}, sample_weight=weight)
    for a, b in zip(clean, result, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not result[1][[1, 3]].any()
    if reduction == "none":
        assert not result[0][[1, 3]].any()


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_ignored_poison_is_harmless(loss, reduction, poison, evaluate):
    z, y = batch_for(loss)
    y[[1, 3]] = -100
    poisoned = z.copy()
    poisoned[[1, 3]] = poison
    clean = evaluate(loss, z, y, {"reduction": reduction})
    result = evaluate(loss, poisoned, y, {"reduction": reduction})
    for a, b in zip(clean, result, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not result[1][[1, 3]].any()


@pytest.mark.parametrize(
    ("loss", "how"),
    [
        *[(loss, how) for loss in LOSSES for how in ("empty", "weights")],
        *[(loss, "ignored") for loss in SOFTMAX],
        *[(loss, "where") for loss in SIGMOID],
    ],
)
def test_nothing_counts(loss, how, evaluate):
    z, y = batch_for(loss)
    call = {}
    if how == "empty":
        z, y = z[:0], y[:0]
    elif how == "weights":
        call["sample_weight"] = 0.0
    elif how == "where":
        call["where"] = False
    else:
        y = np.full_like(y, -100)
    value, grad, _ = evaluate(loss, z, y, **call)
    assert np.isnan(value)
    assert grad.shape == z.shape
    assert not grad.any()
    value, grad, _ = evaluate(loss, z, y, {"reduction": "sum"}, **call)
    assert value == 0.0
    assert not grad.any()
    value, grad, _ = evaluate(loss, z, y, {"reduction": "none"}, **call)
    assert value.shape == y.shape
    assert not value.any()
    assert not grad.any()
    value, _, _ = evaluate(loss, z, y, normalizer=3.0, **call)
    assert value == 0.0


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (0, 0, 4)])
def test_empty_batches_of_any_shape(shape, evaluate):
    y = np.zeros(shape[:-1], int)
    value, grad, hess = evaluate(
        "SoftmaxCrossEntropy", np.zeros(shape, np.float32), y, {"reduction": "none"}
    )
    assert value.shape == y.shape
    assert grad.shape == hess.shape == shape


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("x", [0.0, 1e30, -50.0])
def test_one_class(loss, x, evaluate):
    z = np.full((3, 1), x, np.float32)
    value, grad, hess = evaluate(loss, z, [0, 0, 0])
    assert value == 0
    assert not grad.any()
    assert not hess.any()


def test_ignore_index_that_is_a_class(evaluate):
    z, _ = batch_for("SoftmaxCrossEntropy")
    y = np.array([0, 1, 2, 1, 0, 2])
    options = {"ignore_index": 1, "reduction": "none"}
    value, grad, _ = evaluate("SoftmaxCrossEntropy", z, y, options)
    np.testing.assert_array_equal(value == 0, y == 1)
    np.testing.assert_array_equal(~grad.any(axis=1), y == 1)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_floating_point_flag_is_raised(loss):
    """Whatever the values, NumPy's error state does not see the kernels."""
    z = np.array([[1e4, -1e4, 0], [INF, 0, 0], [NAN, 1, 2], [-INF] * 3, [1e-40, 88, 300]])
    y = np.array([0, 1, 2, 0, 1]) if loss in SOFTMAX else np.tile([0, 1, 1], (5, 1))
    with np.errstate(all="raise"):
        for dtype in (np.float16, np.float32, np.float64):
            with np.errstate(all="ignore"):
                logits = z.astype(dtype)
            getattr(fastce, loss)().value_grad_hess(logits, y)
            getattr(fastce, loss)().value_grad_hess(logits[:0], y[:0])


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
    z = on_grid(rng, (29, 13)).astype(np.float32)
    y = rng.integers(13, size=29)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    expected = loss.value_and_grad(z, y)
    for typed in (y.astype(dtype), y.astype(np.dtype(dtype).newbyteorder("S"))):
        for a, b in zip(loss.value_and_grad(z, typed), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        if limit in range(13):
            continue
        bad = y.astype(dtype)
        bad[7] = limit
        with pytest.raises(IndexError, match=str(limit)):
            loss(z, bad)


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
        *[("SigmoidFocalLoss", {"alpha": x}) for x in (-0.1, 1.1, NAN)],
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
        getattr(fastce, loss)(**options)(*batch_for(loss))


@pytest.mark.parametrize("loss", SOFTMAX)
def test_an_axis_that_the_logits_lack(loss):
    with pytest.raises(np.exceptions.AxisError):
        getattr(fastce, loss)(axis=2)(*batch_for(loss))


# Shapes and arguments of the call -----------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(5,), (6, 2), (7, 3), (6, 3, 1), ()])
def test_a_target_of_the_wrong_shape(loss, shape):
    z, y = batch_for(loss)
    with pytest.raises(ValueError, match=r"\(6, 3\)") as error:
        getattr(fastce, loss)()(z, np.zeros(shape, y.dtype))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_target_that_would_fit_axis_1(loss):
    with pytest.raises(ValueError, match="axis=1"):
        getattr(fastce, loss)()(np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 4, 5), int))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [-1.0, NAN, INF])
def test_sample_weights_out_of_range(loss, bad):
    z, y = batch_for(loss)
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
        getattr(fastce, loss)()(*batch_for(loss), normalizer=bad)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["sample_weight", "where", "grad_output"])
def test_arguments_that_do_not_broadcast(loss, name):
    z, y = batch_for(loss)
    bad = np.ones((5, 2), dtype=bool if name == "where" else float)
    with pytest.raises(ValueError, match=name):
        getattr(fastce, loss)(reduction="none").value_and_grad(z, y, **{name: bad})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [np.complex64, object, np.int64, np.uint8, bool, "U3", "M8[s]"])
def test_logits_of_the_wrong_type(loss, dtype):
    z, y = batch_for(loss)
    with pytest.raises(TypeError, match="logits"):
        getattr(fastce, loss)()(np.zeros(z.shape, dtype), y)


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_arrays(loss):
    z, y = batch_for(loss)
    with pytest.raises(TypeError, match="mask"):
        getattr(fastce, loss)()(np.ma.masked_array(z), y)
    with pytest.raises(TypeError, match="mask"):
        getattr(fastce, loss)()(z, np.ma.masked_array(y))


@pytest.mark.parametrize("loss", LOSSES)
def test_lists(loss):
    z, y = batch_for(loss)
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
    z, y = batch_for(loss)
    out = make()
    with pytest.raises(ValueError, match="out"):
        getattr(fastce, loss)().value_and_grad(z, y, out=out)
    assert not np.asarray(out).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_that_overlap_an_input(loss):
    z, y = batch_for(loss)
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
    z, y = batch_for(loss)
    expected = getattr(fastce, loss)().value_grad_hess(z, y)
    grad, hess = make(), make()
    result = getattr(fastce, loss)().value_grad_hess(z, y, out=(grad, hess))
    assert result[1] is grad
    assert result[2] is hess
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-9)


# Layouts -----------------------------------------------------------------------------------------


def assert_same(results, others):
    for a, b in zip(results, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=4e-6, atol=1e-7)


def relaid(batch, make):
    """The batch with every array of two or more dimensions laid out by `make`."""
    call = {key: make(x) if np.ndim(x) >= 2 else x for key, x in batch.call.items()}
    target = make(batch.target) if batch.target.ndim >= 2 else batch.target
    return Batch(make(batch.logits), target, call)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("c", THOROUGH, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_any_layout(c, layout, dtype, isa):
    batch = c.batch(dtype)
    loss = c.build()
    expected = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
    other = relaid(batch, LAYOUTS[layout])
    np.testing.assert_array_equal(other.logits, batch.logits)
    before = other.logits.tobytes()
    result = loss.value_grad_hess(other.logits, other.target, **other.call)
    assert result[1].dtype.newbyteorder("=") == batch.logits.dtype
    if dtype == "float16":
        eps = float(np.finfo(np.float16).eps)
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=eps, atol=2.0**-24)
    else:
        assert_same(result, expected)
    assert other.logits.tobytes() == before


@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_zero_strides(c, isa):
    batch = c.batch("float32")
    other = Batch(zero_strides(batch.logits), batch.target, batch.call)
    expected = c.build().value_grad_hess(other.logits.copy(), batch.target, **batch.call)
    assert_same(c.build().value_grad_hess(other.logits, batch.target, **batch.call), expected)


@pytest.mark.parametrize("layout", ["every_other_row", "byte_swapped", "unaligned", "read_only"])
def test_labels_of_any_layout(layout, isa, rng):
    z = on_grid(rng, (4, 9, 10)).astype(np.float32)
    y = rng.integers(10, size=(4, 9))
    loss = fastce.SoftmaxCrossEntropy()
    assert_same(loss.value_and_grad(z, LAYOUTS[layout](y)), loss.value_and_grad(z, y))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_alignment_does_not_change_a_bit(c, dtype, isa):
    batch = c.batch(dtype)
    loss = c.build()
    expected = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
    other = LAYOUTS["misaligned_for_vectors"](batch.logits)
    result = loss.value_grad_hess(other, batch.target, **batch.call)
    for a, b in zip(result, expected, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_huge_dimensions_through_zero_strides():
    """2.8·10⁹ elements that occupy four bytes: an error costs no copy, and no time."""
    z = np.broadcast_to(np.float32(0.0), (20_000_000, 140))
    y = np.zeros(20_000_000, np.uint8)
    y[-1] = 140
    with pytest.raises(IndexError, match="19999999"):
        fastce.SoftmaxCrossEntropy()(z, y)


def test_subclasses_are_arrays(rng):
    class Labelled(np.ndarray):
        pass

    c = case("SoftmaxCrossEntropy", "plain")
    batch = c.batch("float32")
    expected = c.build().value_and_grad(batch.logits, batch.target)
    result = c.build().value_and_grad(batch.logits.view(Labelled), batch.target.view(Labelled))
    assert result[0] == expected[0]
    np.testing.assert_array_equal(result[1], expected[1])
