"""Boosting objectives without their hosts: the derivatives' theory, labels, weights, and starts."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings

import numpy as np
import pytest
from boosting import CLASSES, SIGMOID, SOFTMAX, scores_and_labels
from cases import DTYPES
from processes import output_of, peak

import fastce
from fastce.objectives import (
    CatBoostObjective,
    LightGBMObjective,
    Objective,
    XGBoostObjective,
)

HOSTS = [CatBoostObjective, LightGBMObjective, XGBoostObjective]


# The Hessians -------------------------------------------------------------------------------------


def full_hessian(loss, scores, label, step=1e-5):
    """Central differences of the gradient, (K, K)."""
    columns = []
    for j in range(scores.size):
        ends = []
        for sign in (1, -1):
            moved = scores.copy()
            moved[j] += sign * step
            ends.append(loss.value_and_grad(moved, label, normalizer=1.0)[1])
        columns.append((ends[0] - ends[1]) / (2 * step))
    matrix = np.stack(columns, axis=1)
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("loss", SOFTMAX, ids=repr)
def test_upper_hessian_bounds_the_matrix(loss, rng):
    scores, labels = scores_and_labels(rng)
    _, upper = XGBoostObjective(loss, hessian="upper", floor=0).derivatives(scores, labels)
    least = []
    for row, label, bound in zip(scores, labels, upper, strict=True):
        matrix = full_hessian(loss, row, label)
        least.append(np.linalg.eigvalsh(np.diag(bound) - matrix)[0] / np.abs(matrix).max())
    assert min(least) > -1e-6
    # It is a bound, and not just anything large: some sample comes near it.
    assert np.median(least) < 1


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_upper_hessian_keeps_its_digits(gamma, order):
    """If the other class has nearly all of the probability, b < 0 and D_j = 2a·p_j (1−p_j)."""
    t = np.arange(4.0, 80.0, 4.0)
    p, q = 1 / (1 + np.exp(t)), 1 / (1 + np.exp(-t))  # of the label, of the other
    a = q**gamma - gamma * p * q ** (gamma - 1) * np.log(p)
    scores = np.stack([np.zeros_like(t), t], axis=1).astype(np.float32, order=order)
    objective = XGBoostObjective(fastce.SoftmaxFocalLoss(gamma=gamma), hessian="upper", floor=0)
    _, upper = objective.derivatives(scores, np.zeros(t.size))
    wanted = np.maximum(2 * a * p * q, 1e-16)
    np.testing.assert_allclose(upper, np.stack([wanted, wanted], axis=1), rtol=5e-6)


def test_upper_hessian_of_ignored_samples(rng):
    scores, labels = rng.normal(size=(30, 300)), rng.integers(90, size=30).astype(np.uint8)
    ignoring = fastce.SoftmaxFocalLoss(ignore_index=99)
    labels[::3] = 99
    grad, upper = XGBoostObjective(ignoring, hessian="upper").derivatives(scores, labels)
    np.testing.assert_array_equal(grad[::3], 0)
    np.testing.assert_array_equal(upper[::3], 1e-16)


@pytest.mark.parametrize("loss", SIGMOID, ids=repr)
def test_upper_hessian_of_sigmoid_losses_is_no_less_than_the_exact_one(loss, rng):
    scores, labels = 5 * rng.normal(size=300), rng.integers(2, size=300)
    _, exact = XGBoostObjective(loss, hessian="exact").derivatives(scores, labels)
    _, upper = XGBoostObjective(loss, hessian="upper").derivatives(scores, labels)
    assert np.all(upper >= exact)
    assert np.all(upper > 0)


@pytest.mark.parametrize("loss", SOFTMAX + SIGMOID, ids=repr)
@pytest.mark.parametrize("host", HOSTS)
def test_default_hessian_is_positive_and_exact_is_not_touched(host, loss, rng):
    scores, labels = scores_and_labels(rng, size=8.0)
    if loss in SIGMOID:
        scores, labels = scores[:, 0], labels % 2
    _, grad, hess = dataclasses.replace(loss, reduction="sum").value_grad_hess(scores, labels)
    for hessian in ("exact", "positive", "upper"):
        objective = host(loss, hessian=hessian)
        got_grad, got_hess = objective.derivatives(scores, labels)
        np.testing.assert_array_equal(got_grad, grad)
        if hessian == "exact":
            np.testing.assert_array_equal(got_hess, hess)
        else:
            assert np.all(got_hess >= np.maximum(objective.floor * np.abs(grad), 1e-16))


def test_focal_hessians_are_negative_somewhere(rng):
    """Otherwise the tests of positive Hessians would show nothing."""
    scores, labels = scores_and_labels(rng, size=8.0)
    _, hess = XGBoostObjective(SOFTMAX[2], hessian="exact").derivatives(scores, labels)
    assert hess.min() < -0.01
    _, hess = XGBoostObjective(SIGMOID[2], hessian="exact").derivatives(scores[:, 0], labels % 2)
    assert hess.min() < -0.01


@pytest.mark.parametrize(("host", "factor"), [(XGBoostObjective, 2), (LightGBMObjective, 5 / 4)])
def test_factor_of_the_host(host, factor, rng):
    scores, labels = scores_and_labels(rng)
    _, exact = host(SOFTMAX[0], hessian="exact").derivatives(scores, labels)
    _, positive = host(SOFTMAX[0]).derivatives(scores, labels)
    np.testing.assert_allclose(positive, factor * exact, rtol=1e-15)


def test_floor_bounds_the_step(rng):
    scores, labels = scores_and_labels(rng, size=8.0)
    grad, hess = XGBoostObjective(SOFTMAX[2], floor=0.25).derivatives(scores, labels)
    assert np.abs(grad / hess).max() == pytest.approx(4)


@pytest.mark.parametrize("weight", [None, 1.5])
@pytest.mark.parametrize("loss", SOFTMAX, ids=repr)
def test_matrix_for_catboost(loss, weight, rng):
    scores, labels = scores_and_labels(rng, rows=40)
    for row, label in zip(scores, labels, strict=True):
        matrix = (weight or 1) * full_hessian(loss, row, label)
        der1, der2 = CatBoostObjective(loss, hessian="exact").calc_ders_multi(
            row, float(label), weight
        )
        _, grad = loss.value_and_grad(row, label, sample_weight=weight, normalizer=1.0)
        np.testing.assert_allclose(-der1, grad, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(-der2, matrix, rtol=1e-6, atol=1e-8)
        _, positive = CatBoostObjective(loss).calc_ders_multi(row, float(label), weight)
        assert np.linalg.eigvalsh(-positive)[0] > -1e-12
        assert np.linalg.eigvalsh(-positive + der2)[0] > -1e-12  # never less than the exact one


@pytest.mark.parametrize("option", [{"z_loss": 0.1}, {"softcap": 5.0}])
def test_matrix_is_diagonal_where_no_other_is_known(option, rng):
    loss = fastce.SoftmaxCrossEntropy(**option)
    scores = rng.normal(size=CLASSES)
    _, grad, hess = loss.value_grad_hess(scores, 2)
    for hessian, diagonal in (("exact", hess), ("positive", np.maximum(2 * hess, 1e-16))):
        objective = CatBoostObjective(loss, hessian=hessian)
        der1, der2 = objective.calc_ders_multi(scores, 2.0, None)
        np.testing.assert_allclose(-der1, grad, rtol=1e-15)
        np.testing.assert_allclose(-der2, np.diag(diagonal), rtol=1e-15)
    with pytest.raises(ValueError, match="z_loss or softcap"):
        XGBoostObjective(loss, hessian="upper")


# Labels, weights, memory --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [*SOFTMAX, SIGMOID[0], SIGMOID[2]], ids=repr)
def test_class_major_scores_are_read_in_place_and_answered_alike(loss, rng):
    scores, labels = scores_and_labels(rng)
    weight = rng.uniform(0.5, 2, len(labels)).astype(np.float32)
    class_major = np.asfortranarray(scores)
    for hessian in ("exact", "positive", "upper"):
        objective = LightGBMObjective(loss, hessian=hessian)
        answers = objective.derivatives(class_major, labels.astype(np.float32), weight)
        for got, want in zip(answers, objective.derivatives(scores, labels, weight), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
            assert got.flags.f_contiguous  # what LightGBM ravels without a copy
            assert want.flags.c_contiguous


@pytest.mark.parametrize("loss", [SOFTMAX[0], SOFTMAX[2]], ids=repr)
def test_class_major_scores_are_not_copied(loss, rng):
    """A call allocates its outputs, integer labels, and weights of the scores' type, no more."""
    scores, labels = scores_and_labels(rng, rows=200_000)
    scores, weight = np.asfortranarray(scores), rng.random(labels.size).astype(np.float32)
    objective = LightGBMObjective(loss)
    objective.derivatives(scores[:10], labels[:10])  # imports, thread pool
    most = peak(lambda: objective.derivatives(scores, labels.astype(np.float32), weight))
    assert most > 2 * scores.nbytes  # NumPy's arrays are being traced
    assert most - 2 * scores.nbytes < 3 * 8 * labels.size < scores.nbytes


def test_one_vs_rest_is_bce_of_one_hot_labels(rng):
    scores, labels = scores_and_labels(rng)
    weight = rng.uniform(0.5, 2, len(labels))
    one_hot = (labels[:, None] == np.arange(CLASSES)).astype(float)
    loss = fastce.BCEWithLogits(reduction="sum")
    _, grad, hess = loss.value_grad_hess(scores, one_hot, sample_weight=weight[:, None])
    for target in (labels, labels.astype(np.float32), one_hot, one_hot.astype(int)):
        got = XGBoostObjective(loss).derivatives(scores, target, weight)
        np.testing.assert_allclose(got[0], grad, rtol=1e-14)
        np.testing.assert_allclose(got[1], hess, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("host", HOSTS)
def test_weights_count_once(host, rng):
    """A sample of weight 2 counts like two of the same."""
    scores, labels = scores_and_labels(rng)
    objective = host(fastce.SoftmaxFocalLoss(gamma=2.0))
    grad, hess = objective.derivatives(scores, labels)
    for got, once in zip(
        objective.derivatives(scores, labels, np.full(len(labels), 2.0)), (grad, hess), strict=True
    ):
        np.testing.assert_allclose(got, 2 * once, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
def test_integral_labels_of_any_type(dtype, rng):
    scores, labels = scores_and_labels(rng)
    got = XGBoostObjective(SOFTMAX[0]).derivatives(scores, labels.astype(dtype))
    want = XGBoostObjective(SOFTMAX[0]).derivatives(scores, labels)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf, -0.5])
def test_labels_that_are_not_integers_are_errors(bad, rng):
    scores, labels = scores_and_labels(rng)
    labels = labels.astype(np.float32)
    labels[7] = bad
    for loss in (SOFTMAX[0], SIGMOID[0]):
        with pytest.raises(ValueError, match=r"integer class labels.* at position 7"):
            XGBoostObjective(loss).derivatives(scores, labels)


@pytest.mark.parametrize("loss", [SOFTMAX[0], SIGMOID[0]], ids=repr)
def test_label_out_of_range_is_an_error(loss, rng):
    scores, labels = scores_and_labels(rng)
    labels[3] = CLASSES
    with pytest.raises(IndexError, match="label 5 at position 3"):
        XGBoostObjective(loss).derivatives(scores, labels)


def test_errors_of_the_constructor():
    with pytest.raises(TypeError, match="loss must be one of SoftmaxCrossEntropy"):
        XGBoostObjective("focal")
    for wrong in ("diagonal", None, np.array(["exact", "upper"])):
        with pytest.raises(ValueError, match="hessian must be 'positive', 'exact' or 'upper'"):
            LightGBMObjective(SIGMOID[0], hessian=wrong)
    with pytest.raises(ValueError, match="floor"):
        CatBoostObjective(SIGMOID[0], floor=-1)


@pytest.mark.parametrize("host", [Objective, *HOSTS])
def test_objectives_are_values(host):
    objective = host(SOFTMAX[3], hessian="upper")
    for twin in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert twin == objective
        assert hash(twin) == hash(objective)
    assert objective != host(SOFTMAX[3])
    assert repr(objective) == (f"{host.__name__}(loss={SOFTMAX[3]!r}, hessian='upper', floor=0.05)")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("loss", [*SOFTMAX, *SIGMOID], ids=repr)
def test_scores_of_other_types_are_converted(loss, order, dtype, rng):
    """The Hessian is raised to its floor in place, in the two types that its kernel takes."""
    scores = np.array(2 * rng.normal(size=(50, CLASSES)), DTYPES.get(dtype, dtype), order=order)
    labels = rng.integers(CLASSES, size=50)
    native = np.float64 if dtype == ">f8" else np.float32
    for hessian in ("positive", "exact", "upper"):
        objective = Objective(loss, hessian=hessian)
        expected = objective.derivatives(scores.astype(native), labels)
        for found, array in zip(objective.derivatives(scores, labels), expected, strict=True):
            assert found.dtype == native
            assert found.strides == array.strides
            np.testing.assert_array_equal(found, array)


def test_a_derived_loss_keeps_its_name():
    class Derived(fastce.SoftmaxFocalLoss):
        pass

    assert Objective(Derived()).name == "softmax_focal_loss"


def test_import_brings_no_host():
    code = (
        "import sys, fastce.objectives;"
        "print([m for m in ('xgboost', 'lightgbm', 'catboost', 'sklearn') if m in sys.modules])"
    )
    assert output_of(code) == ["[]"]


# Without a host -----------------------------------------------------------------------------------


def test_nothing_is_refused_outside_of_a_host():
    """Metrics and objectives may be called by hand, on anything that holds labels."""

    class Data:
        def get_label(self):
            return np.array([0.0, 1.0])

        def get_weight(self):
            return None

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for host in (XGBoostObjective, LightGBMObjective):
            objective = host(SIGMOID[0])
            assert objective.metric(np.zeros(2), Data())[1] == pytest.approx(np.log(2))
            assert objective.probability_metric(np.full(2, 0.5), Data())[1] == pytest.approx(
                np.log(2)
            )
            assert objective(np.zeros(2), Data())[0].tolist() == [0.5, -0.5]


# Shapes -------------------------------------------------------------------------------------------

N, K = 3, 2
SCORES = {"softmax": np.zeros((N, K)), "one": np.zeros(N), "several": np.zeros((N, K))}
LOSS = {"softmax": SOFTMAX[0], "one": SIGMOID[0], "several": SIGMOID[0]}


@pytest.mark.parametrize("method", ["derivatives", "value", "value_of_probabilities"])
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        *[("softmax", shape) for shape in ((K, N), (N * K,), (K,), (N, 1), ())],
        *[("one", shape) for shape in ((N, 1), (1, N), (1,))],
        *[("several", shape) for shape in ((K, N), (N * K,), (N, 1), (K,))],
    ],
)
def test_target_of_a_wrong_shape_is_an_error(kind, target, method):
    call = getattr(Objective(LOSS[kind]), method)
    with pytest.raises(ValueError, match=r"target of shape .* does not fit scores of shape"):
        call(SCORES[kind], np.zeros(target))


@pytest.mark.parametrize("method", ["derivatives", "value", "value_of_probabilities"])
@pytest.mark.parametrize(
    ("kind", "weight"),
    [(k, w) for k in SCORES for w in ((1,), (K,), (N, 1), (1, N), (K, N), (N * K,))],
)
def test_weight_of_a_wrong_shape_is_an_error(kind, weight, method):
    call = getattr(Objective(LOSS[kind]), method)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(3,\), got"):
        call(SCORES[kind], np.zeros(N), np.ones(weight))


def test_lists_that_are_no_arrays_are_named():
    """XGBoost passes an empty array for no weights: the size is checked before anything else."""
    ragged, named = [[1.0], [1.0, 2.0]], "sample_weight cannot be converted to an array"
    objective = Objective(SOFTMAX[0])
    with pytest.raises(ValueError, match=named):
        objective.derivatives(SCORES["several"], np.zeros(N), ragged)
    with pytest.raises(ValueError, match=named):
        objective.initial_score(np.zeros(N), ragged)
    with pytest.raises(ValueError, match="target cannot be converted to an array"):
        XGBoostObjective(SOFTMAX[0]).sklearn(ragged, SCORES["several"])
    with pytest.raises(ValueError, match="target cannot be converted to an array"):
        CatBoostObjective(SOFTMAX[0]).calc_ders_multi(np.zeros(K), ragged, None)


@pytest.mark.parametrize("method", ["derivatives", "value"])
@pytest.mark.parametrize("shape", [(), (N,), (N, K, 1)])
def test_scores_of_a_wrong_shape_are_an_error(method, shape):
    with pytest.raises(ValueError, match=r"needs scores of shape \(n, K\), got .*num_class"):
        getattr(Objective(SOFTMAX[0]), method)(np.zeros(shape), np.zeros(N))
    if shape != (N,):
        with pytest.raises(ValueError, match=r"scores must have shape \(n,\) or \(n, K\), got"):
            getattr(Objective(SIGMOID[0]), method)(np.zeros(shape), np.zeros(N))


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("calc_ders_multi", (np.zeros((1, K)), 1.0, None), "needs scores of shape"),
        ("calc_ders_multi", (np.zeros(K), [0.0, 1.0], None), "one class label, got shape"),
        ("calc_ders_multi", (np.zeros(K), 0.5, None), "integer class labels, got 0.5"),
        ("calc_ders_multi", (np.zeros(K), np.nan, None), "integer class labels, got nan"),
        ("calc_ders_multi", (np.zeros(K), 1e30, None), "integer class labels, got 1e"),
        ("evaluate", ([np.zeros(2), np.zeros(3)], np.zeros(2), None), "of equal length"),
        ("evaluate", ([np.zeros(3)], np.zeros(3), None), "needs scores of shape"),
        ("evaluate", ([np.zeros(3)] * K, np.zeros(2), None), "target of shape"),
        ("evaluate", ([np.zeros(3)] * K, np.zeros(3), np.ones(2)), "sample_weight must have shape"),
    ],
)
def test_wrong_shapes_from_catboost_are_errors(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(CatBoostObjective(SOFTMAX[0]), method)(*arguments)


@pytest.mark.parametrize("label", [2.0, -1.0])
def test_label_out_of_range_from_catboost_is_an_error(label):
    with pytest.raises(IndexError, match="label"):
        CatBoostObjective(SOFTMAX[0]).calc_ders_multi(np.zeros(K), label, None)


# Probabilities and negative weights ---------------------------------------------------------------


@pytest.mark.parametrize("loss", [SOFTMAX[0], SOFTMAX[2], SIGMOID[0], SIGMOID[2]], ids=repr)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_of_probabilities_is_that_of_their_scores(loss, weighted, rng):
    scores, labels = scores_and_labels(rng)
    weight = rng.uniform(0.5, 2, labels.size) if weighted else None
    if loss in SIGMOID:
        scores, labels = scores[:, 0], labels % 2
    p = fastce.softmax(scores) if loss in SOFTMAX else 1 / (1 + np.exp(-scores))
    objective = Objective(loss)
    got = objective.value_of_probabilities(p, labels, weight)
    assert got == pytest.approx(objective.value(scores, labels, weight), rel=1e-9)
    assert got != pytest.approx(objective.value(p, labels, weight), rel=0.1)


def test_probabilities_of_0_and_1_count_as_1e_15():
    objective = Objective(SIGMOID[0])
    assert objective.value_of_probabilities([0.0, 1.0], [1, 0]) == pytest.approx(-np.log(1e-15))
    assert objective.value_of_probabilities([0.0, 1.0], [0, 1]) == pytest.approx(1e-15)
    got = Objective(SOFTMAX[0]).value_of_probabilities([[1.0, 0.0]], [1])
    assert got == pytest.approx(-np.log(1e-15))
    with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\], got 1.5 at pos"):
        objective.value_of_probabilities([0.5, 1.5], [0, 1])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("hessian", ["positive", "exact", "upper"])
@pytest.mark.parametrize("loss", [*SOFTMAX, *SIGMOID], ids=repr)
def test_negative_weight_takes_a_sample_away(loss, hessian, host, rng):
    """Gradient and Hessian of weight −w are those of w, with the sign changed."""
    scores, labels = scores_and_labels(rng)
    weight = rng.uniform(0.5, 2, labels.size)
    if loss in SIGMOID:
        scores, labels = scores[:, 0].copy(), labels % 2
    objective = host(loss, hessian=hessian)
    sign = np.where(rng.random(labels.size) < 0.3, -1, 1)
    want = objective.derivatives(scores, labels, weight)
    got = objective.derivatives(scores, labels, sign * weight)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours, (sign * theirs.T).T)


def test_least_integer_as_a_weight():
    """Its absolute value does not fit in its type."""
    objective = Objective(fastce.BCEWithLogits())
    weight = np.array([-128, 5], np.int8)
    got = objective.derivatives([0.5, 1.0], [1, 0], weight)
    want = objective.derivatives([0.5, 1.0], [1, 0], weight.astype(float))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("loss", [SOFTMAX[0], *SIGMOID], ids=repr)
@pytest.mark.parametrize("weight", [1e39, 1e-46])
def test_weights_beyond_the_range_of_the_scores(weight, loss, rng):
    """A weight of float64 is not rounded to the float32 of the scores."""
    scores, labels = scores_and_labels(rng, rows=20)
    one_hot, weights = np.eye(CLASSES)[labels], np.full(20, weight)
    objective, single = Objective(loss), scores.astype(np.float32)
    value = objective.value(single, one_hot, weights)
    assert value == pytest.approx(objective.value(scores, one_hot), rel=1e-5)
    grad, _ = objective.derivatives(single, one_hot, weights)
    expected, _ = objective.derivatives(scores, one_hot, weights)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(grad, expected.astype(np.float32), rtol=1e-5, atol=3e-45)


def test_nothing_raises_what_the_caller_wants_of_numpy():
    bce, softmax = Objective(fastce.BCEWithLogits()), Objective(fastce.SoftmaxCrossEntropy())
    scores, tiny = np.zeros(2, np.float32), 1e-310
    with np.errstate(all="raise"):
        grad, _ = bce.derivatives(scores, [tiny, 1.0])
        value = bce.value_of_probabilities([tiny, 0.5], [0, 1])
        start = softmax.initial_score([0, 1, 1], [1e300, 1e-300, 1.0])
    np.testing.assert_array_equal(grad, [0.5, -0.5])
    np.testing.assert_allclose(value, np.log(2) / 2, rtol=1e-14)
    np.testing.assert_allclose(start, [0, np.log(1e-15)], atol=1e-14)


def test_soft_labels_are_probabilities(rng):
    scores, labels = scores_and_labels(rng)
    soft = rng.dirichlet(np.ones(CLASSES), size=labels.size)
    weight = rng.uniform(0.5, 2, labels.size)
    loss = fastce.SoftmaxCrossEntropy(reduction="sum")
    objective = XGBoostObjective(loss, hessian="exact")
    _, *want = loss.value_grad_hess(scores, soft, sample_weight=weight)
    for got, wanted in zip(objective.derivatives(scores, soft, weight), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-13)
    hard = np.eye(CLASSES, dtype=int)[labels]
    np.testing.assert_allclose(
        objective.derivatives(scores, hard), objective.derivatives(scores, labels), rtol=1e-12,
        atol=1e-15,
    )  # fmt: skip
    with pytest.raises((TypeError, ValueError), match="target"):
        XGBoostObjective(SOFTMAX[2]).derivatives(scores, soft)
