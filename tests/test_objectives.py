"""Boosting objectives: against the hosts' built-in ones, the derivatives' theory, and their calls.

The classes named after a peer train the real host; CI installs all three.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from scipy.optimize import minimize

import fastce
from fastce.objectives import (
    CatBoostObjective,
    LightGBMObjective,
    Objective,
    XGBoostObjective,
)

HOSTS = [CatBoostObjective, LightGBMObjective, XGBoostObjective]
CLASSES = 5
WEIGHT = np.array([0.5, 1.0, 2.0, 0.25, 1.5])
SOFTMAX = [
    fastce.SoftmaxCrossEntropy(),
    fastce.SoftmaxCrossEntropy(label_smoothing=0.2, weight=WEIGHT, logit_scale=0.5),
    fastce.SoftmaxFocalLoss(gamma=2.0),
    fastce.SoftmaxFocalLoss(gamma=0.5, alpha=WEIGHT),
    fastce.SoftmaxFocalLoss(gamma=5.0),
]
SIGMOID = [
    fastce.BCEWithLogits(),
    fastce.BCEWithLogits(pos_weight=3.0, label_smoothing=0.1),
    fastce.SigmoidFocalLoss(),
    fastce.SigmoidFocalLoss(gamma=0.5, alpha=None),
    fastce.SigmoidFocalLoss(gamma=5.0, alpha=0.9),
]


@pytest.fixture(scope="module")
def several():
    """Features, labels and weights of CLASSES classes; enough rows for the hosts' blocks."""
    return samples(np.random.default_rng(1), CLASSES)


@pytest.fixture(scope="module")
def two():
    return samples(np.random.default_rng(2), 2)


@pytest.fixture(scope="module")
def xgboost():
    return pytest.importorskip("xgboost")


@pytest.fixture(scope="module")
def lightgbm():
    return pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def catboost():
    return pytest.importorskip("catboost")


def samples(rng, classes, rows=1500):
    labels = rng.choice(classes, rows, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    centres = rng.normal(size=(classes, 6))
    features = centres[labels] + rng.normal(size=(rows, 6))
    return features, labels, rng.uniform(0.25, 4, rows)


def scores_and_labels(rng, rows=200, size=4.0):
    return size * rng.normal(size=(rows, CLASSES)), rng.integers(CLASSES, size=rows)


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
    _, grad, hess = type(loss)(**{**vars_of(loss), "reduction": "sum"}).value_grad_hess(
        scores, labels
    )
    for hessian in ("exact", "positive", "upper"):
        objective = host(loss, hessian=hessian)
        got_grad, got_hess = objective.derivatives(scores, labels)
        np.testing.assert_array_equal(got_grad, grad)
        if hessian == "exact":
            np.testing.assert_array_equal(got_hess, hess)
        else:
            assert np.all(got_hess >= np.maximum(objective.floor * np.abs(grad), 1e-16))


def vars_of(loss):
    return loss.__reduce__()[1][1]


def test_focal_hessians_are_negative_somewhere(rng):
    """Else the tests of positive Hessians show nothing."""
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
    objective = CatBoostObjective(loss)
    der1, der2 = objective.calc_ders_multi(rng.normal(size=CLASSES), 2.0, None)
    assert np.count_nonzero(der2) == CLASSES
    assert np.all(np.diag(der2) < 0)
    assert der1.shape == (CLASSES,)
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


def test_one_vs_rest_is_bce_of_one_hot_labels(rng):
    scores, labels = scores_and_labels(rng)
    weight = rng.uniform(0.5, 2, len(labels))
    one_hot = (labels[:, None] == np.arange(CLASSES)).astype(float)
    loss = fastce.BCEWithLogits(reduction="sum")
    _, grad, hess = loss.value_grad_hess(scores, one_hot, sample_weight=weight[:, None])
    for target in (labels, labels.astype(np.float32), one_hot, one_hot.ravel()):
        got = XGBoostObjective(loss).derivatives(scores, target, weight)
        np.testing.assert_allclose(got[0], grad, rtol=1e-14)
        np.testing.assert_allclose(got[1], hess, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("host", HOSTS)
def test_weights_count_once(host, rng):
    """Two of the same sample are one of weight 2."""
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
        with pytest.raises(ValueError, match=r"integral class labels.* at position 7"):
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
    with pytest.raises(ValueError, match="'positive', 'exact' or 'upper'"):
        LightGBMObjective(SIGMOID[0], hessian="diagonal")
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


def test_import_brings_no_host():
    code = (
        "import sys, fastce.objectives;"
        "print([m for m in ('xgboost', 'lightgbm', 'catboost', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Where to start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", SIGMOID, ids=repr)
def test_initial_score_of_sigmoid_losses_is_the_minimum(loss, weighted, rng):
    target = (rng.random(400) < 0.05).astype(float)
    weight = rng.uniform(0.5, 2, target.size) if weighted else None
    objective = XGBoostObjective(loss)
    start = objective.initial_score(target, weight)

    def mean(score):
        return objective.value(np.full(target.size, score), target, weight)

    _, grad = loss.value_and_grad(np.full(target.size, start), target, sample_weight=weight)
    assert abs(grad.sum()) < 1e-11
    assert all(mean(start) <= mean(start + step) for step in (-3, -0.1, 0.1, 3))


def test_initial_score_of_bce_is_the_log_odds(rng):
    target = rng.integers(2, size=99)
    weight = rng.uniform(0.5, 2, target.size)
    odds = weight[target == 1].sum() / weight[target == 0].sum()
    start = LightGBMObjective(fastce.BCEWithLogits()).initial_score(target, weight)
    assert start == pytest.approx(np.log(odds), abs=1e-11)


def test_initial_scores_of_columns(rng):
    labels = rng.integers(CLASSES, size=300)
    one_hot = (labels[:, None] == np.arange(CLASSES)).astype(float)
    objective = XGBoostObjective(fastce.SigmoidFocalLoss(gamma=2.0))
    alone = [objective.initial_score(column) for column in one_hot.T]
    np.testing.assert_allclose(objective.initial_score(one_hot), alone, atol=1e-11)
    np.testing.assert_allclose(objective.initial_score(labels, classes=CLASSES), alone, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", SOFTMAX, ids=repr)
def test_initial_score_of_softmax_losses_is_the_minimum(loss, weighted, rng):
    labels = rng.choice(CLASSES, 500, p=[0.6, 0.3, 0.07, 0.02, 0.01])
    weight = rng.uniform(0.5, 2, labels.size) if weighted else None
    objective = XGBoostObjective(loss)
    start = objective.initial_score(labels, weight, classes=CLASSES)

    def mean(scores):
        return objective.value(np.tile(scores, (labels.size, 1)), labels, weight)

    found = minimize(mean, start, method="BFGS", options={"gtol": 1e-9})
    assert mean(start) <= found.fun + 1e-12
    _, grad = loss.value_and_grad(np.tile(start, (labels.size, 1)), labels, sample_weight=weight)
    assert np.abs(grad.sum(axis=0)).max() < 1e-9


def test_initial_score_of_a_plain_softmax_is_the_logarithm_of_shares(rng):
    labels = np.array([0, 0, 0, 1, 3])
    start = XGBoostObjective(fastce.SoftmaxCrossEntropy()).initial_score(labels, classes=5)
    shares = np.array([3, 1, 1e-15 * 5, 1, 1e-15 * 5]) / 5
    np.testing.assert_allclose(start, np.log(shares), atol=1e-12)


def test_initial_score_leaves_ignored_samples_out():
    loss = fastce.SoftmaxCrossEntropy(ignore_index=1)
    start = XGBoostObjective(loss).initial_score([0, 1, 1, 2, 2], classes=3)
    np.testing.assert_allclose(start[[0, 2]], np.log([1 / 3, 2 / 3]), atol=1e-12)


@pytest.mark.parametrize("target", [[0, 0, 0], [1, 1]])
def test_initial_score_of_one_class_alone_is_finite(target):
    start = XGBoostObjective(fastce.BCEWithLogits()).initial_score(target)
    assert abs(start) == pytest.approx(-np.log(1e-15))


# XGBoost ------------------------------------------------------------------------------------------


class TestPeerXGBoost:
    """The same trees as the built-in objectives: a raw score differs in its last float32 digits."""

    SETTINGS: ClassVar = {
        "max_depth": 3,
        "nthread": 1,
        "seed": 0,
        "disable_default_eval_metric": True,
    }

    @pytest.mark.parametrize("weighted", [False, True])
    def test_softmax_equals_the_built_in(self, xgboost, several, weighted):
        features, labels, weight = several
        data = xgboost.DMatrix(features, labels, weight=weight if weighted else None)
        settings = self.SETTINGS | {"num_class": CLASSES, "base_score": 0.5}
        theirs = xgboost.train(settings | {"objective": "multi:softprob"}, data, 20)
        ours = xgboost.train(settings, data, 20, obj=XGBoostObjective(fastce.SoftmaxCrossEntropy()))
        self.same(ours, theirs, data)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_bce_equals_the_built_in(self, xgboost, two, weighted):
        features, labels, weight = two
        weight = weight if weighted else None
        data = xgboost.DMatrix(features, labels, weight=weight)
        objective = XGBoostObjective(fastce.BCEWithLogits())
        # XGBoost, too, starts at the log-odds; of a custom objective, base_score is the raw score.
        start = objective.initial_score(labels, weight)
        theirs = xgboost.train(self.SETTINGS | {"objective": "binary:logistic"}, data, 20)
        ours = xgboost.train(self.SETTINGS | {"base_score": start}, data, 20, obj=objective)
        self.same(ours, theirs, data)

    def test_pos_weight_equals_scale_pos_weight(self, xgboost, two):
        features, labels, _ = two
        data = xgboost.DMatrix(features, labels)
        settings = self.SETTINGS | {"base_score": 0.5, "objective": "binary:logistic"}
        theirs = xgboost.train(settings | {"scale_pos_weight": 3.0}, data, 20)
        ours = xgboost.train(
            self.SETTINGS | {"base_score": 0.0},
            data,
            20,
            obj=XGBoostObjective(fastce.BCEWithLogits(pos_weight=3.0)),
        )
        self.same(ours, theirs, data)

    @staticmethod
    def same(ours, theirs, data):
        a, b = (model.predict(data, output_margin=True) for model in (ours, theirs))
        assert np.ptp(b) > 1
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert len(ours.get_dump()) == len(theirs.get_dump())

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_metric_equals_the_built_in(self, xgboost, two, several, kind, weighted):
        features, labels, weight = {"two": two, "several": several}[kind]
        data = xgboost.DMatrix(features, labels, weight=weight if weighted else None)
        loss = fastce.BCEWithLogits() if kind == "two" else fastce.SoftmaxCrossEntropy()
        objective, history = XGBoostObjective(loss), {}
        builtin = {
            "two": {"objective": "binary:logistic", "eval_metric": "logloss"},
            "several": {
                "objective": "multi:softprob",
                "eval_metric": "mlogloss",
                "num_class": CLASSES,
            },
        }[kind]
        model = xgboost.train(
            {"nthread": 1} | builtin, data, 5, evals=[(data, "a")], evals_result=history
        )
        (their_history,) = history["a"].values()
        name, value = objective.metric(model.predict(data, output_margin=True), data)
        assert name == ("bce_with_logits" if kind == "two" else "softmax_cross_entropy")
        assert value == pytest.approx(their_history[-1], rel=1e-5)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_sklearn_interface_gives_the_native_model(self, xgboost, several, weighted):
        features, labels, weight = several
        weight = weight if weighted else None
        objective = XGBoostObjective(fastce.SoftmaxFocalLoss(gamma=1.0))
        data = xgboost.DMatrix(features, labels, weight=weight)
        settings = {"max_depth": 3, "learning_rate": 0.2, "base_score": 0.0}
        native = xgboost.train(
            settings | {"nthread": 1, "num_class": CLASSES}, data, 8, obj=objective
        )
        model = xgboost.XGBClassifier(
            n_estimators=8,
            n_jobs=1,
            objective=objective.sklearn,
            eval_metric=objective.sklearn_metric,
            **settings,
        )
        model.fit(
            features,
            labels,
            sample_weight=weight,
            eval_set=[(features, labels)],
            sample_weight_eval_set=None if weight is None else [weight],
            verbose=False,
        )
        scores = model.predict(features, output_margin=True)
        np.testing.assert_allclose(scores, native.predict(data, output_margin=True), atol=1e-6)
        history = model.evals_result()["validation_0"]["softmax_focal_loss"]
        assert history[-1] == pytest.approx(objective.value(scores, labels, weight), rel=1e-5)
        assert history[-1] < history[0]

    def test_several_labels_a_sample(self, xgboost, several, rng):
        features, labels, _ = several
        targets = np.stack([labels > 1, labels % 2, features[:, 0] > 0], axis=1).astype(float)
        data = xgboost.DMatrix(features, targets)
        settings = self.SETTINGS | {"tree_method": "hist"}
        theirs = xgboost.train(
            settings | {"base_score": 0.5, "objective": "binary:logistic"}, data, 8
        )
        ours = xgboost.train(
            settings | {"base_score": 0.0}, data, 8, obj=XGBoostObjective(fastce.BCEWithLogits())
        )
        self.same(ours, theirs, data)

    def test_focal_trains_where_a_plain_hessian_does_not(self, xgboost, two):
        """From a rare class's log-odds, each positive sample's second derivative is negative."""
        features, labels, _ = two
        kept = (labels == 0) | (np.arange(labels.size) % 80 == 0)
        features, labels = features[kept], labels[kept]
        assert 0 < labels.mean() < 0.05
        start = np.full(labels.size, np.log(labels.mean() / (1 - labels.mean())))
        data = xgboost.DMatrix(features, labels, base_margin=start)
        gain = {}
        for hessian in ("exact", "positive"):
            objective = XGBoostObjective(
                fastce.SigmoidFocalLoss(gamma=2.0, alpha=None), hessian=hessian
            )
            settings = self.SETTINGS | {"min_child_weight": 0}
            model = xgboost.train(settings, data, 30, obj=objective)
            scores = model.predict(data, output_margin=True)
            gain[hessian] = objective.value(start, labels) - objective.value(scores, labels)
        assert gain["positive"] > 0
        assert gain["positive"] > 2 * gain["exact"]


# LightGBM -----------------------------------------------------------------------------------------


class TestPeerLightGBM:
    SETTINGS: ClassVar = {"num_leaves": 7, "num_threads": 1, "verbose": -1, "deterministic": True}

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize(
        ("builtin", "loss"),
        [
            ("multiclass", fastce.SoftmaxCrossEntropy()),
            ("multiclassova", fastce.BCEWithLogits()),
        ],
    )
    def test_several_classes_equal_the_built_in(self, lightgbm, several, builtin, loss, weighted):
        features, labels, weight = several
        weight = weight if weighted else None
        settings = self.SETTINGS | {"num_class": CLASSES}
        objective = LightGBMObjective(loss)
        theirs = lightgbm.train(
            settings | {"objective": builtin, "boost_from_average": False},
            lightgbm.Dataset(features, labels, weight=weight),
            20,
        )
        ours = lightgbm.train(
            settings | {"objective": objective},
            lightgbm.Dataset(features, labels, weight=weight),
            20,
        )
        self.same(ours.predict(features), theirs.predict(features, raw_score=True))

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_initial_score_equals_boost_from_average(self, lightgbm, two, several, kind, weighted):
        features, labels, weight = {"two": two, "several": several}[kind]
        weight = weight if weighted else None
        loss = fastce.BCEWithLogits() if kind == "two" else fastce.SoftmaxCrossEntropy()
        settings = dict(self.SETTINGS)
        if kind == "several":
            settings["num_class"] = CLASSES
        objective = LightGBMObjective(loss)
        start = objective.initial_score(labels, weight)
        theirs = lightgbm.train(
            settings | {"objective": "binary" if kind == "two" else "multiclass"},
            lightgbm.Dataset(features, labels, weight=weight),
            20,
        )
        init_score = np.broadcast_to(start, (labels.size, *np.shape(start))).copy()
        ours = lightgbm.train(
            settings | {"objective": objective},
            lightgbm.Dataset(features, labels, weight=weight, init_score=init_score),
            20,
        )
        self.same(ours.predict(features) + start, theirs.predict(features, raw_score=True))

    @staticmethod
    def same(ours, theirs):
        assert np.ptp(theirs) > 1
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
    @pytest.mark.parametrize("weighted", [False, True])
    def test_sklearn_interface_gives_the_native_model(self, lightgbm, several, weighted):
        pytest.importorskip("sklearn")
        features, labels, weight = several
        weight = weight if weighted else None
        objective = LightGBMObjective(fastce.SoftmaxFocalLoss(gamma=1.0), hessian="upper")
        history = {}
        data = lightgbm.Dataset(features, labels, weight=weight, free_raw_data=False)
        native = lightgbm.train(
            self.SETTINGS
            | {
                "objective": objective,
                "num_class": CLASSES,
                "metric": "None",
                "min_data_in_leaf": 5,
            },
            data,
            8,
            valid_sets=[data],
            valid_names=["a"],
            feval=objective.metric,
            callbacks=[lightgbm.record_evaluation(history)],
        )
        model = lightgbm.LGBMClassifier(
            n_estimators=8,
            n_jobs=1,
            objective=objective.sklearn,
            num_leaves=7,
            min_child_samples=5,
            verbose=-1,
            deterministic=True,
        )
        model.fit(
            features,
            labels,
            sample_weight=weight,
            eval_set=[(features, labels)],
            eval_sample_weight=None if weight is None else [weight],
            eval_metric=objective.sklearn_metric,
        )
        scores = model.predict(features, raw_score=True)
        np.testing.assert_allclose(scores, native.predict(features, raw_score=True), atol=1e-12)
        (mean,) = history["a"].values()
        (sklearn_history,) = model.evals_result_.values()
        sklearn_mean = sklearn_history["softmax_focal_loss"]
        assert mean[-1] == pytest.approx(objective.value(scores, labels, weight), rel=1e-9)
        np.testing.assert_allclose(mean, sklearn_mean, rtol=1e-9)
        assert mean[-1] < mean[0]

    @pytest.mark.parametrize("weighted", [False, True])
    def test_metric_equals_the_built_in(self, lightgbm, several, weighted):
        features, labels, weight = several
        data = lightgbm.Dataset(
            features, labels, weight=weight if weighted else None, free_raw_data=False
        )
        history = {}
        objective = LightGBMObjective(fastce.SoftmaxCrossEntropy())
        lightgbm.train(
            self.SETTINGS
            | {"objective": objective, "num_class": CLASSES, "metric": "multi_logloss"},
            data,
            4,
            valid_sets=[data],
            valid_names=["a"],
            feval=objective.metric,
            callbacks=[lightgbm.record_evaluation(history)],
        )
        # Of a custom objective LightGBM's own metric takes raw scores for probabilities, so that
        # ours is compared with a built-in run.
        builtin = {}
        lightgbm.train(
            self.SETTINGS
            | {"objective": "multiclass", "num_class": CLASSES, "boost_from_average": False},
            data,
            4,
            valid_sets=[data],
            valid_names=["a"],
            callbacks=[lightgbm.record_evaluation(builtin)],
        )
        np.testing.assert_allclose(
            history["a"]["softmax_cross_entropy"], builtin["a"]["multi_logloss"], rtol=1e-6
        )


# CatBoost -----------------------------------------------------------------------------------------


class TestPeerCatBoost:
    """Equal where CatBoost's defaults for custom objectives, which are others, are set alike."""

    SETTINGS: ClassVar = {
        "iterations": 5,
        "learning_rate": 0.3,
        "depth": 3,
        "thread_count": 1,
        "random_seed": 0,
        "random_strength": 0,
        "bootstrap_type": "No",
        "boost_from_average": False,
        "leaf_estimation_method": "Newton",
        "leaf_estimation_iterations": 1,
        "allow_writing_files": False,
        "verbose": False,
    }

    @pytest.mark.filterwarnings("error:Failed to optimize")
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_model_and_metric_equal_the_built_in(self, catboost, two, several, kind, weighted):
        features, labels, weight = {"two": two, "several": several}[kind]
        if kind == "several":  # one Python call a row
            features, labels, weight = features[:300], labels[:300], weight[:300]
        weight = weight if weighted else None
        loss = fastce.BCEWithLogits() if kind == "two" else fastce.SoftmaxCrossEntropy()
        objective = CatBoostObjective(loss)
        builtin = "Logloss" if kind == "two" else "MultiClass"
        count = {} if kind == "two" else {"classes_count": CLASSES}
        theirs = catboost.CatBoostClassifier(loss_function=builtin, **self.SETTINGS)
        ours = catboost.CatBoostClassifier(
            loss_function=objective, eval_metric=objective, **self.SETTINGS, **count
        )
        scores, history = [], []
        for model in (ours, theirs):
            model.fit(features, labels, sample_weight=weight)
            scores.append(model.predict(features, prediction_type="RawFormulaVal"))
            (learned,) = model.evals_result_["learn"].values()
            history.append(learned)
        assert np.ptp(scores[1]) > 0.5
        np.testing.assert_allclose(*scores, atol=1e-12)
        # CatBoost's logarithm of two classes is an approximation.
        np.testing.assert_allclose(*history, rtol=5e-4 if kind == "two" else 1e-12)

    @pytest.mark.parametrize("loss", [*SOFTMAX, *SIGMOID], ids=repr)
    def test_evaluate_gives_the_library_mean(self, loss, rng):
        scores, labels = scores_and_labels(rng)
        weight = rng.uniform(0.5, 2, labels.size)
        approxes = tuple(scores.T.copy())
        if loss in SIGMOID:
            approxes, scores, labels = approxes[:1], scores[:, 0].copy(), labels % 2
        objective = CatBoostObjective(loss)
        for given in (None, weight.astype(np.float32)):
            parts = [
                objective.evaluate(
                    tuple(a[rows] for a in approxes),
                    labels[rows].astype(np.float32),
                    None if given is None else given[rows],
                )
                for rows in (slice(0, 77), slice(77, None))
            ]
            error, total = np.sum(parts, axis=0)
            want = loss(scores, labels, sample_weight=given)
            assert objective.get_final_error(error, total) == pytest.approx(want, rel=1e-12)
        assert not objective.is_max_optimal()
        assert np.isnan(objective.get_final_error(0.0, 0.0))

    def test_ignored_samples_count_nothing(self, rng):
        objective = CatBoostObjective(fastce.SoftmaxCrossEntropy(ignore_index=2))
        der1, der2 = objective.calc_ders_multi(rng.normal(size=CLASSES), 2.0, 1.0)
        assert not der1.any()
        assert not der2.any()
        approxes = tuple(rng.normal(size=(CLASSES, 3)))
        _, total = objective.evaluate(approxes, np.array([0.0, 2.0, 1.0]), None)
        assert total == 2
