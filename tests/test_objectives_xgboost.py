"""Objectives for XGBoost, which train the real host, beside its built-in ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from boosting import CLASSES

import fastce
from fastce.objectives import XGBoostObjective


@pytest.fixture(scope="module")
def xgboost():
    return pytest.importorskip("xgboost")


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
