"""Weights, factors and options that the working precision cannot represent."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from cases import DISTILLATION, FUNCTIONS, LOSSES, REDUCTIONS, SIGMOID, SOFTMAX, small_batch
from refusals import CLASSES

import fastce
from fastce import reference

FACTORS = {
    "weights": lambda w: {"sample_weight": w},
    "large weights": lambda w: {"sample_weight": w * 1e39},
    "larger weights": lambda w: {"sample_weight": w * 1e300},
    "small weights": lambda w: {"sample_weight": w * 1e-46},
    "smaller weights": lambda w: {"sample_weight": w * 1e-300},
    "large weights of float32": lambda w: {"sample_weight": (w * 1e38).astype(np.float32)},
    "small weights of float32": lambda w: {"sample_weight": (w * 1e-42).astype(np.float32)},
    "repeated weight": lambda w: {"sample_weight": np.broadcast_to(1e50, w.shape)},
    "normalizer": lambda w: {"normalizer": 1e-40},
    "opposite factors": lambda w: {"sample_weight": w * 1e60, "normalizer": 1e60},
    "grad_output": lambda w: {"grad_output": -1e39},
    "product": lambda w: {"sample_weight": w * 1e25, "grad_output": 1e25, "normalizer": 1e2},
}


def assert_as_rounded(results, truth):
    """What the reference gives in float64, rounded once, except for what is next to nothing."""
    for i, (a, b) in enumerate(zip(results, truth, strict=True)):
        with np.errstate(all="ignore"):
            b = b.astype(np.float32) if np.ndim(b) else b
        assert not np.isnan(b).any()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-37 if i else 0, err_msg=f"result {i}")


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", [*LOSSES, DISTILLATION])
def test_factors_beyond_the_type(loss, reduction, factors, isa, rng):
    """They are multiplied in float64, and only their product has to fit: nothing is inf · 0."""
    z, y = small_batch(loss, "float32")
    z[0] *= 1000
    call = FACTORS[factors](rng.integers(1, 4, y.shape if loss in SIGMOID else len(z)) / 2)
    made = getattr(fastce, loss)(reduction=reduction)
    truth = getattr(reference, FUNCTIONS[loss])(z, y, reduction=reduction, **call)
    assert_as_rounded(made.value_grad_hess(z, y, **call), truth)
    for out in (np.empty_like(z), np.asfortranarray(z), z):
        assert_as_rounded(made.value_and_grad(z, y, out=out, **call), truth[:2])


@pytest.mark.parametrize("x", [1e39, 1e300, 1e-46, 1e-300])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("loss", "option", "others"),
    [
        ("SoftmaxCrossEntropy", "weight", {}),
        ("SoftmaxCrossEntropy", "weight", {"label_smoothing": 0.1}),
        ("SoftmaxFocalLoss", "alpha", {}),
        ("BCEWithLogits", "pos_weight", {}),
    ],
)
def test_options_beyond_the_type(loss, option, others, reduction, x, isa):
    z, y = small_batch(loss, "float32")
    z[0] *= 1000
    options = {option: np.linspace(1, 2, z.shape[-1]) * x, "reduction": reduction, **others}
    made, truth = getattr(fastce, loss)(**options), getattr(reference, FUNCTIONS[loss])
    assert_as_rounded(made.value_and_grad(z, y), truth(z, y, **options)[:2])
    assert_as_rounded(made.value_grad_hess(z, y), truth(z, y, **options))
    assert np.array_equal(made(z, y), made.value_and_grad(z, y)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_whose_sum_is_infinite_have_no_mean(loss, dtype, evaluate):
    z, y = small_batch(loss, dtype)
    weight = np.full(y.shape, 1.7e308)
    for x in evaluate(loss, z, y, sample_weight=weight):
        assert np.isnan(x).all()
    assert np.isnan(getattr(fastce, loss)()(z, y, sample_weight=weight))
    # A sum has no denominator, and a normalizer is one.
    call = {"sample_weight": weight / 1e4}
    total = evaluate(loss, z, y, {"reduction": "sum"}, **call)[0]
    mean = evaluate(loss, z, y, normalizer=1e300, **call)[0]
    assert mean == pytest.approx(total / 1e300)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("margin", [80.0, 100.0, 129.75, 500.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_focal_hessian_where_its_factor_overflows(isa, gamma, margin, sign):
    """q^(γ−1) is beyond float32 where q, and with it the Hessian, is next to nothing."""
    made = fastce.SoftmaxFocalLoss(gamma=gamma, reduction="none")
    z, y = np.array([[margin, 0, -1.0]]), np.array([0])
    hess = made.value_grad_hess(z.astype(np.float32), y, grad_output=np.array([sign]))[2]
    truth = sign * reference.softmax_focal_loss(z, y, gamma=gamma, reduction="none")[2]
    smallest = float(np.finfo(np.float32).smallest_normal)
    np.testing.assert_allclose(hess, truth, rtol=1e-5, atol=smallest)


@pytest.mark.parametrize("gamma", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("margin", [700.0, 725.0, 740.0, 800.0])
def test_focal_hessian_of_probabilities_that_are_subnormal(gamma, margin, isa):
    z = np.array([[0.0, -margin, -margin]])
    hess = fastce.SoftmaxFocalLoss(gamma=gamma, reduction="none").value_grad_hess(z, [0])[2]
    np.testing.assert_allclose(hess, 0, atol=1e-300)


@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize("rare", [1e-6, 1e-3, 0.1])
def test_a_rare_label_that_is_predicted_to_be_impossible(rare, smoothing, dtype, classes, isa):
    """The loss from smoothing is no difference of large numbers, even if the rest is small."""
    z, weight = np.full((2, classes), -86.0, dtype), np.full(classes, rare)
    z[:, 1], weight[1] = 0, 0.5
    options = {"weight": weight, "label_smoothing": smoothing, "reduction": "none"}
    true = reference.softmax_cross_entropy(z.astype(np.longdouble), [0, 2], **options)[0]
    loss = fastce.SoftmaxCrossEntropy(**options)
    for value in (loss(z, [0, 2]), loss.value_grad_hess(z, [0, 2])[0]):
        np.testing.assert_allclose(value, true.astype(float), rtol=32 * np.finfo(dtype).eps)


@pytest.mark.parametrize("rare", [1e-4, 1.2e-3, 1e-2])
@pytest.mark.parametrize("classes", [3, 11, 101])
def test_a_rare_label_far_below_equal_classes(classes, rare, isa):
    weight, z = np.ones(classes), np.full((40, classes), 0.1, np.float32)
    weight[0], z[:, 0] = rare, np.linspace(-85, -60, 40)
    options = {"weight": weight, "label_smoothing": 0.1, "reduction": "none"}
    true = reference.softmax_cross_entropy(z.astype(np.longdouble), np.zeros(40, int), **options)[0]
    value = fastce.SoftmaxCrossEntropy(**options)(z, np.zeros(40, int))
    np.testing.assert_allclose(value, true.astype(float), rtol=4 * np.finfo(np.float32).eps)


EXTREME = (1e300, 1e-300, 5e-324, 1.7e308)


@pytest.mark.parametrize("x", EXTREME)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_factors_warn_of_nothing(loss, dtype, x):
    """They may overflow or vanish in the result, but raise no error in NumPy's error state."""
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


@pytest.mark.parametrize(("dtype", "weight"), [("float32", 1e30), ("float64", 1e250)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("target", ["labels", "smoothing", "probabilities"])
def test_large_weights_of_tiny_probabilities(dtype, weight, order, classes, target, isa):
    """Derivatives are normal numbers although the probabilities are not: p = exp(-gap) / sum."""
    info = np.finfo(dtype)
    rows = 70
    gap = np.linspace(0.8, 1.16, rows) * -np.log(info.smallest_normal)
    z = np.zeros((rows, classes))
    z[:, 1] = np.round(-gap * 4) / 4
    y = np.zeros(rows, int)
    options = {"label_smoothing": 5e-324} if target == "smoothing" else {}
    if target == "probabilities":
        y = np.eye(classes)[y]
    loss = fastce.SoftmaxCrossEntropy(reduction="sum", **options)
    z = np.array(z, dtype, order=order)
    factor = np.full(rows, weight)
    grad = loss.value_and_grad(z, y, sample_weight=factor)[1]
    _, same_grad, hess = loss.value_grad_hess(z, y, sample_weight=factor)
    exponent = z[:, 1].astype(np.longdouble)
    truth = np.longdouble(weight) * np.exp(exponent) / (classes - 1 + np.exp(exponent))
    assert (truth > 4 * info.smallest_normal).all()
    for found in (grad, same_grad, hess):
        np.testing.assert_allclose(found[:, 1], truth.astype(float), rtol=4 * float(info.eps))
    np.testing.assert_array_equal(grad, same_grad)
