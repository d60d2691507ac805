"""Objectives for LightGBM, which train the real host, beside its built-in ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from boosting import CLASSES

import fastce
from fastce.objectives import LightGBMObjective


@pytest.fixture(scope="module")
def lightgbm():
    return pytest.importorskip("lightgbm")


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
            metric="None",
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
            | {"objective": objective, "num_class": CLASSES, "metric": "None"},
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
