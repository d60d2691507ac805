"""Objectives for CatBoost, which train the real host, beside its built-in ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from boosting import CLASSES, SIGMOID, SOFTMAX, scores_and_labels

import fastce
from fastce.objectives import CatBoostObjective


@pytest.fixture(scope="module")
def catboost():
    return pytest.importorskip("catboost")


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
