"""The page "Coming from another library", against scikit-learn, SciPy and the boosting hosts."""

from __future__ import annotations

import numpy as np
import pytest
from coming_from import BOOSTING, CE, HOSTS, Checks, P, S, Y, Z, rng, same
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

import fastce
from fastce.objectives import CatBoostObjective, LightGBMObjective, XGBoostObjective

checks = Checks()
row = checks.row

# ----------------------------------------------------------------------------------- scikit-learn


@row("scikit-learn", "`log_loss(y, p)`")
def _():
    p = P.astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)
    same(log_loss(Y, p), CE(np.log(p), Y), rtol=1e-12)


@row("scikit-learn", "`log_loss(..., sample_weight=w)`")
def _():
    same(log_loss(Y, P, sample_weight=S), CE(np.log(P), Y, sample_weight=S))


@row("scikit-learn", "`log_loss(..., normalize=False)`")
def _():
    ours = fastce.SoftmaxCrossEntropy(reduction="sum")(np.log(P), Y)
    same(log_loss(Y, P, normalize=False), ours)


@row("scikit-learn", '`class_weight="balanced"`')
def _():
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=Y)
    same(theirs, len(Y) / (4 * np.bincount(Y)))


@row("scikit-learn", "`LogisticRegression(C=c)`")
def _():
    x, y, c = rng.normal(size=(60, 3)), rng.integers(3, size=60), 0.3
    model = LogisticRegression(C=c, tol=1e-10, max_iter=1000, fit_intercept=False).fit(x, y)
    _, grad = fastce.SoftmaxCrossEntropy(reduction="sum").value_and_grad(x @ model.coef_.T, y)
    assert_allclose(grad.T @ x + model.coef_ / c, 0, atol=1e-4)  # of the sum with the penalty


@row("scikit-learn", "`decision_function`, two classes")
def _():
    x, y = rng.normal(size=(60, 3)), rng.integers(2, size=60)
    model = LogisticRegression().fit(x, y)
    logits = model.decision_function(x)
    assert logits.shape == (60,)
    same(log_loss(y, model.predict_proba(x)), fastce.BCEWithLogits()(logits, y), rtol=1e-10)


@row("scikit-learn", "`scipy.special.softmax(z)`")
def _():
    same(softmax(Z), fastce.softmax(Z, axis=None))
    assert fastce.softmax(Z).sum() > 5


# --------------------------------------------------------------------------------------- boosting

X = rng.integers(8, size=(300, 3)).astype(float)
SEVERAL = ((X[:, 0] + X[:, 1] + rng.integers(6, size=300)) // 7).astype(int) % 3
TWO = (X[:, 0] + rng.integers(8, size=300) > 11).astype(float)
RATIO = (TWO == 0).sum() / TWO.sum()
XGBOOST = {"max_depth": 2, "nthread": 1, "disable_default_eval_metric": True}
LIGHTGBM = {"num_leaves": 4, "num_threads": 1, "verbose": -1, "metric": "None"}


def xgboost_scores(settings, y, objective=None, start=None):
    import xgboost

    margin = None if start is None else np.tile(start, (len(y), 1))
    data = xgboost.DMatrix(X, y, base_margin=margin)
    model = xgboost.train(XGBOOST | settings, data, 8, obj=objective)
    return model.predict(data, output_margin=True)


def lightgbm_scores(settings, y, start=None, weight=None):
    import lightgbm

    init = None if start is None else np.tile(start, (len(y), 1)).reshape(len(y), -1).squeeze()
    data = lightgbm.Dataset(X, y, weight=weight, init_score=init)
    model = lightgbm.train(LIGHTGBM | settings, data, 8)
    return model.predict(X, raw_score=True) + (0 if start is None else start)


@row(BOOSTING, "XGBoost `multi:softprob`")
def _():
    settings = {"num_class": 3, "base_score": 0.5}
    theirs = xgboost_scores(settings | {"objective": "multi:softprob"}, SEVERAL)
    objective = XGBoostObjective(fastce.SoftmaxCrossEntropy())
    assert_allclose(xgboost_scores(settings, SEVERAL, objective), theirs, atol=1e-5)
    del settings["base_score"]
    theirs = softmax(xgboost_scores(settings | {"objective": "multi:softprob"}, SEVERAL), axis=1)
    ours = xgboost_scores(settings, SEVERAL, objective, objective.initial_score(SEVERAL))
    assert_allclose(softmax(ours, axis=1), theirs, atol=1e-5)
    at_half = softmax(xgboost_scores(settings, SEVERAL, objective), axis=1)
    assert not np.allclose(at_half, theirs, atol=1e-2)


@row(BOOSTING, "XGBoost `binary:logistic`")
def _():
    objective = XGBoostObjective(fastce.BCEWithLogits())
    theirs = xgboost_scores({"objective": "binary:logistic"}, TWO)
    start = objective.initial_score(TWO)
    assert_allclose(start, np.log(TWO.mean() / (1 - TWO.mean())), rtol=1e-6)
    assert_allclose(xgboost_scores({"base_score": start}, TWO, objective), theirs, atol=1e-5)
    at_half = xgboost_scores({}, TWO, objective)
    assert_allclose(at_half, xgboost_scores({"base_score": 0.5}, TWO, objective), atol=1e-6)
    assert not np.allclose(at_half, theirs, atol=1e-2)


@row(BOOSTING, "XGBoost `scale_pos_weight=w`")
def _():
    weighted = XGBoostObjective(fastce.BCEWithLogits(pos_weight=3.0))
    start = weighted.initial_score(TWO)
    theirs = {"objective": "binary:logistic", "scale_pos_weight": 3.0}
    theirs |= {"base_score": 1 / (1 + np.exp(-start))}
    ours = xgboost_scores({"base_score": start}, TWO, weighted)
    assert_allclose(ours, xgboost_scores(theirs, TWO), atol=1e-5)
    with pytest.raises(ValueError, match="scale_pos_weight"):
        xgboost_scores({"scale_pos_weight": 3.0}, TWO, XGBoostObjective(fastce.BCEWithLogits()))


@row(BOOSTING, "LightGBM `multiclass`")
def _():
    objective = LightGBMObjective(fastce.SoftmaxCrossEntropy())
    theirs = lightgbm_scores({"num_class": 3, "objective": "multiclass"}, SEVERAL)
    start = objective.initial_score(SEVERAL)
    ours = lightgbm_scores({"num_class": 3, "objective": objective}, SEVERAL, start)
    assert_allclose(ours, theirs, atol=1e-8)


@row(BOOSTING, "LightGBM `multiclassova`")
def _():
    objective = LightGBMObjective(fastce.BCEWithLogits())
    theirs = lightgbm_scores({"num_class": 3, "objective": "multiclassova"}, SEVERAL)
    start = objective.initial_score(SEVERAL, classes=3)
    ours = lightgbm_scores({"num_class": 3, "objective": objective}, SEVERAL, start)
    assert_allclose(ours, theirs, atol=1e-8)
    at_zero = lightgbm_scores({"num_class": 3, "objective": objective}, SEVERAL)
    assert not np.allclose(at_zero, theirs, atol=1e-2)


@row(BOOSTING, "LightGBM `is_unbalance`")
def _():
    # LightGBM gives its weight to the rarer class.
    positive = TWO if RATIO > 1 else 1 - TWO
    ratio = max(RATIO, 1 / RATIO)
    objective = LightGBMObjective(fastce.BCEWithLogits(pos_weight=ratio))
    theirs = {"objective": "binary", "is_unbalance": True, "boost_from_average": False}
    ours = lightgbm_scores({"objective": objective}, positive)
    assert_allclose(ours, lightgbm_scores(theirs, positive), atol=1e-8)
    with pytest.raises(ValueError, match="is_unbalance"):
        lightgbm_scores({"objective": objective, "is_unbalance": True}, positive)
    theirs = lightgbm_scores(theirs | {"lambda_l2": 5.0}, 1 - positive)
    settings = {"objective": LightGBMObjective(fastce.BCEWithLogits()), "lambda_l2": 5.0}
    weight = np.where(positive == 1, ratio, 1.0)  # of the negatives
    assert_allclose(lightgbm_scores(settings, 1 - positive, weight=weight), theirs, atol=1e-6)


@row(BOOSTING, "CatBoost `Logloss`")
def _():
    from catboost import CatBoostClassifier

    settings = {"iterations": 8, "thread_count": 1}
    settings |= {"verbose": False, "allow_writing_files": False, "boost_from_average": False}
    settings |= {"random_strength": 0, "bootstrap_type": "No"}
    settings |= {"boosting_type": "Plain", "score_function": "L2"}
    objective = CatBoostObjective(fastce.BCEWithLogits())

    def scores(**changes):
        model = CatBoostClassifier(**settings | {"depth": 2} | changes).fit(X, TWO.astype(int))
        return model.predict(X, prediction_type="RawFormulaVal")

    own = {"loss_function": objective, "eval_metric": objective, "class_names": (0, 1)}
    theirs = {"loss_function": "Logloss"}
    chosen = {"learning_rate": 0.2, "leaf_estimation_iterations": 2}
    assert_allclose(scores(**own, **chosen), scores(**theirs, **chosen), atol=1e-6)
    # Deep trees with little regularisation overshoot.
    chosen = {"learning_rate": 1.0, "leaf_estimation_iterations": 10}
    chosen |= {"depth": 6, "l2_leaf_reg": 0.1, "iterations": 30}
    always = {"leaf_estimation_backtracking": "No"}
    assert_allclose(scores(**own, **chosen), scores(**theirs, **chosen, **always), atol=1e-6)
    assert not np.allclose(scores(**own, **chosen), scores(**theirs, **chosen), atol=1e-2)
    assert not np.allclose(scores(**own), scores(**theirs), atol=1e-2)


# ------------------------------------------------------------------------------------------ tests


def test_every_row_has_a_check():
    checks.assert_complete("scikit-learn", BOOSTING)


@pytest.mark.parametrize(("host", "theirs"), checks.of_installed())
@pytest.mark.filterwarnings("ignore")
def test_row(host, theirs):
    for package in HOSTS[host]:
        pytest.importorskip(package)
    checks[host, theirs]()
