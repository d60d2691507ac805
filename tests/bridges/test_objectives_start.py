"""Initial scores are the best constants, as SciPy's minimisers confirm."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from boosting import CLASSES, SIGMOID, SOFTMAX, WEIGHT
from cases import FUNCTIONS
from scipy.optimize import minimize, minimize_scalar

import fastce
from fastce import reference
from fastce.objectives import LightGBMObjective, Objective, XGBoostObjective

LEAST = np.log(1e-15)
EVERY_SOFTMAX = [
    *SOFTMAX,
    fastce.SoftmaxCrossEntropy(label_smoothing=1.0),
    fastce.SoftmaxCrossEntropy(z_loss=0.1, weight=WEIGHT),
    fastce.SoftmaxCrossEntropy(softcap=2.0),
    fastce.SoftmaxCrossEntropy(softcap=1.5, z_loss=0.2, logit_scale=0.7, label_smoothing=0.1),
    fastce.SoftmaxCrossEntropy(softcap=1.0, logit_scale=-0.5),
    fastce.SoftmaxFocalLoss(gamma=0.0),
    fastce.SoftmaxFocalLoss(gamma=1.0, alpha=[0.0, 1.0, 2.0, 0.5, 0.1]),
]
EVERY_SIGMOID = [
    *SIGMOID,
    fastce.BCEWithLogits(pos_weight=0.0),
    fastce.SigmoidFocalLoss(gamma=0.0, alpha=1.0),
    fastce.SigmoidFocalLoss(gamma=2.0, label_smoothing=0.2),
]


def weights(kind, rng, labels):
    """Positive weights, or some negative ones with a positive sum over each class."""
    if kind == "none":
        return None
    weight = rng.uniform(0.5, 2, labels.size)
    if kind == "negative":
        weight[::3] *= -0.1
    return weight


# One score per sample -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "positive", "negative"])
@pytest.mark.parametrize("case", ["rare", "no positive", "all positive", "soft"])
@pytest.mark.parametrize("loss", EVERY_SIGMOID, ids=repr)
def test_sigmoid_start_is_the_minimum(loss, case, kind, rng):
    share = {"rare": 0.05, "no positive": 0.0, "all positive": 1.0, "soft": 0.5}[case]
    target = (rng.random(400) < share).astype(float)
    if case == "soft":
        target = rng.choice([0.0, 0.2, 0.7, 1.0], 400)
    weight = weights(kind, rng, target)
    start = XGBoostObjective(loss).initial_score(target, weight)

    values, place = np.unique(target, return_inverse=True)
    mass = np.bincount(place, weight)

    def total(score):
        losses, _, _ = of_reference(loss, np.full(values.size, score), values)
        return float(losses @ mass)

    found = minimize_scalar(total, bounds=(LEAST, -LEAST), method="bounded")
    assert abs(start) <= -LEAST + 1e-12
    size = abs(total(0.0)) + 1e-300
    assert total(start) <= min(found.fun, total(LEAST), total(-LEAST)) + 1e-12 * size


def of_reference(loss, scores, target):
    function = getattr(reference, FUNCTIONS[type(loss).__name__])
    return function(scores, target, **{**loss._options(), "reduction": "none"})


def test_start_of_bce_is_the_log_odds(rng):
    target = rng.integers(2, size=99)
    weight = rng.uniform(0.5, 2, target.size)
    odds = weight[target == 1].sum() / weight[target == 0].sum()
    start = LightGBMObjective(fastce.BCEWithLogits()).initial_score(target, weight)
    assert start == pytest.approx(np.log(odds), abs=1e-11)


def test_starts_of_columns(rng):
    labels = rng.integers(CLASSES, size=300)
    one_hot = (labels[:, None] == np.arange(CLASSES)).astype(float)
    objective = XGBoostObjective(fastce.SigmoidFocalLoss(gamma=2.0))
    alone = [objective.initial_score(column) for column in one_hot.T]
    np.testing.assert_allclose(objective.initial_score(one_hot), alone, atol=1e-11)
    np.testing.assert_allclose(objective.initial_score(labels, classes=CLASSES), alone, atol=1e-11)


@pytest.mark.parametrize("loss", [SIGMOID[0], SIGMOID[2]], ids=repr)
@pytest.mark.parametrize("target", [[0, 1, 1, 0, 1], [0.25, 1.0, 0.5]])
def test_start_of_one_column(target, loss):
    """For scores (n, 1), whose labels are not classes but numbers in [0, 1]: the gradient is 0."""
    objective = Objective(loss)
    start = objective.initial_score(target, classes=1)
    assert start.tolist() == [objective.initial_score(target)]
    grad, _ = objective.derivatives(np.tile(start, (len(target), 1)), target)
    assert abs(grad.sum()) < 1e-10


@pytest.mark.parametrize(("target", "sign"), [([0, 0, 0], -1), ([1, 1], 1)])
def test_start_of_one_class_alone_is_the_bound(target, sign):
    start = XGBoostObjective(fastce.BCEWithLogits()).initial_score(target)
    assert start == pytest.approx(-sign * LEAST)


# Several scores -----------------------------------------------------------------------------------


def best_of_softmax(loss, mass):
    """Minimise the reference's losses with SciPy, from several points."""
    classes = mass.size
    scale = getattr(loss, "logit_scale", 1.0)
    every = np.arange(classes)

    def total(scores):
        losses, grad, _ = of_reference(loss, np.tile(scores, (classes, 1)), every)
        return float(losses @ mass), mass @ grad

    rng = np.random.default_rng(0)
    best = np.inf
    for size in (0.1, 4.0):
        begin = size * rng.normal(size=classes)
        found = minimize(
            total,
            begin,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-80 / abs(scale), 80 / abs(scale))] * classes,
            options={"ftol": 1e-15, "gtol": 1e-11, "maxiter": 1000},
        )
        best = min(best, found.fun)
    return total, best


@pytest.mark.parametrize("kind", ["none", "negative"])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [1, 3, 4], [2]], ids=str)
@pytest.mark.parametrize("loss", EVERY_SOFTMAX, ids=repr)
def test_softmax_start_is_the_minimum(loss, labels, kind, rng):
    """Classes may be absent, even all but one; the tolerance allows for their shares of 1e-15."""
    y = np.array(labels)[rng.integers(len(labels), size=300) * rng.integers(2, size=300)]
    weight = weights(kind, rng, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start = XGBoostObjective(loss).initial_score(y, weight, classes=CLASSES)
    assert np.isfinite(start).all()
    mass = np.bincount(y, weight, minlength=CLASSES)
    total, best = best_of_softmax(loss, mass)
    assert total(start)[0] <= best + 1e-11 * abs(total(np.zeros(CLASSES))[0]) + 1e-300


def test_start_of_a_plain_softmax_is_the_logarithm_of_shares():
    labels = np.array([0, 0, 0, 1, 3])
    start = XGBoostObjective(fastce.SoftmaxCrossEntropy()).initial_score(labels, classes=5)
    shares = np.array([3, 1, 1e-15 * 5, 1, 1e-15 * 5]) / 5
    np.testing.assert_allclose(start, np.log(shares), atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_start_of_one_class_alone(smoothing):
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=smoothing)
    start = Objective(loss).initial_score([2, 2, 2])
    want = np.log(np.maximum([smoothing / 3, smoothing / 3, 1 - 2 * smoothing / 3], 1e-15))
    np.testing.assert_allclose(start, want, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0, 40.0])
def test_start_of_focal_loss_of_one_class_alone(gamma):
    start = Objective(fastce.SoftmaxFocalLoss(gamma=gamma)).initial_score([1, 1], classes=3)
    assert start[1] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(start[[0, 2]], LEAST, rtol=1e-9)


@pytest.mark.parametrize("loss", [SOFTMAX[0], SOFTMAX[2]], ids=repr)
def test_start_of_one_class_of_one(loss):
    assert Objective(loss).initial_score([0, 0], classes=1).tolist() == [0]


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_start_of_two_classes_differs_by_the_start_of_one_score(gamma, rng):
    """A softmax of two classes is the sigmoid of the difference."""
    labels = (rng.random(300) < 0.1).astype(int)
    two = Objective(fastce.SoftmaxFocalLoss(gamma=gamma)).initial_score(labels)
    one = Objective(fastce.SigmoidFocalLoss(gamma=gamma, alpha=None)).initial_score(labels)
    assert two[1] - two[0] == pytest.approx(one, abs=1e-10)
    assert np.exp(two).sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8])
def test_labels_of_any_integer_type(dtype):
    labels = np.array([0, 0, 0, 2, 2, 1, 1, 1], dtype)
    start = Objective(fastce.SoftmaxCrossEntropy()).initial_score(labels)
    np.testing.assert_allclose(start, np.log([3 / 8, 3 / 8, 2 / 8]), atol=1e-12)
    assert Objective(fastce.SoftmaxCrossEntropy()).initial_score(labels[:0]).size == 0


def test_start_leaves_ignored_samples_out():
    loss = fastce.SoftmaxCrossEntropy(ignore_index=1)
    start = XGBoostObjective(loss).initial_score([0, 1, 1, 2, 2], classes=3)
    np.testing.assert_allclose(start[[0, 2]], np.log([1 / 3, 2 / 3]), atol=1e-12)


def test_start_of_probabilities_is_their_mean(rng):
    q = rng.dirichlet(np.ones(CLASSES), size=50)
    weight = rng.uniform(0.5, 2, 50)
    start = Objective(fastce.SoftmaxCrossEntropy()).initial_score(q, weight)
    np.testing.assert_allclose(start, np.log(weight @ q / weight.sum()), rtol=1e-13)


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [SIGMOID[0], SIGMOID[2], SOFTMAX[0], SOFTMAX[2]], ids=repr)
@pytest.mark.parametrize("case", ["nothing", "weights of 0"])
def test_start_without_samples_is_equal_for_all_classes(loss, case):
    target, weight = ([], None) if case == "nothing" else ([0, 1, 1], [0, 0, 0])
    options = {"classes": 3} if loss in SOFTMAX else {}
    start = np.atleast_1d(Objective(loss).initial_score(target, weight, **options))
    np.testing.assert_allclose(start, np.log(1 / 3) if loss in SOFTMAX else 0, atol=1e-12)


def test_negative_weights_take_samples_away(rng):
    labels = rng.integers(CLASSES, size=300)
    for loss in (SOFTMAX[0], SOFTMAX[2]):
        objective = Objective(loss)
        want = objective.initial_score(labels)
        weight = np.concatenate([np.ones(300), np.full(40, 1.0), np.full(40, -1.0)])
        more = np.concatenate([labels, labels[:40], labels[:40]])
        np.testing.assert_allclose(objective.initial_score(more, weight), want, atol=1e-12)


@pytest.mark.parametrize("loss", [SIGMOID[0], SIGMOID[2], SOFTMAX[0], SOFTMAX[2]], ids=repr)
def test_class_of_negative_weight_is_at_the_bound(loss):
    start = Objective(loss).initial_score([0, 0, 1], [2.0, 2.0, -1.0])
    difference = start[1] - start[0] if loss in SOFTMAX else start
    assert difference == pytest.approx(LEAST, rel=1e-9)


@pytest.mark.parametrize("loss", [SIGMOID[0], SOFTMAX[0]], ids=repr)
def test_sum_of_weights_that_is_not_positive_is_an_error(loss):
    with pytest.raises(ValueError, match="positive sum for an initial score"):
        Objective(loss).initial_score([0, 1, 1], [1.0, 2.0, -4.0])


@pytest.mark.parametrize("loss", [SIGMOID[0], SOFTMAX[0]], ids=repr)
def test_weights_whose_sum_overflows(loss):
    want = Objective(loss).initial_score([0, 1, 1, 1])
    got = Objective(loss).initial_score([0, 1, 1, 1], np.full(4, 1e308))
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("loss", [SIGMOID[0], SOFTMAX[0]], ids=repr)
def test_many_weights_lose_no_digits(loss):
    """Added up one by one, 4 million of them would be off by 5e-11."""
    labels = np.arange(4_000_000) % 4 == 3
    start = Objective(loss).initial_score(labels, np.full(labels.size, 0.1))
    want = np.log([0.75, 0.25]) if loss in SOFTMAX else -np.log(3)
    np.testing.assert_allclose(start, want, rtol=2e-14 if loss in SIGMOID else 1e-15)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "target", "options", "message"),
    [
        (SIGMOID[0], 1.0, {}, r"target must have shape \(n,\) or \(n, K\), got \(\)"),
        (SIGMOID[0], np.zeros((2, 2, 2)), {}, r"target must have shape .*, got \(2, 2, 2\)"),
        (SIGMOID[0], np.zeros((2, 2)), {"classes": 3}, "does not fit classes=3"),
        (SIGMOID[0], [0.0, np.nan], {}, r"target must lie in \[0, 1\], got nan at position 1"),
        (SOFTMAX[0], 2, {}, r"target must have shape .*, got \(\)"),
        (
            SOFTMAX[0],
            np.full((2, 3), -0.5),
            {},
            r"target must lie in \[0, 1\], got -0.5 at position \(0, 0\)",
        ),
        (SOFTMAX[2], np.ones((2, 3)) / 3, {}, r"target must have shape \(n,\), got \(2, 3\)"),
        (SOFTMAX[0], [0, 1], {"sample_weight": np.ones((2, 3))}, "sample_weight of shape"),
        (SOFTMAX[0], [0, 1], {"sample_weight": [1.0, np.inf]}, "sample_weight must be finite"),
        (SOFTMAX[0], [0, 1], {"classes": 1.5}, "classes must be an integer"),
        (SOFTMAX[1], [0, 1], {"classes": 3}, "weight has 5 weights"),
    ],
)
def test_errors_name_the_argument(loss, target, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Objective(loss).initial_score(target, **options)


def test_label_out_of_range_is_an_error():
    for loss in (SIGMOID[0], SOFTMAX[0]):
        with pytest.raises(IndexError, match="label 3 at position 1"):
            Objective(loss).initial_score([0, 3], classes=3)
