"""Objectives for XGBoost, in the real host: training, built-in objectives, life cycle."""

from __future__ import annotations

import numpy as np
import pytest
from boosting import (
    BINARY,
    CLASSES,
    CROSS_ENTROPY,
    FOCAL,
    ROUNDS,
    assert_predictions,
    halves,
    in_another_process,
    is_least,
    search,
)

import fastce
from fastce.objectives import XGBoostObjective

NATIVE = {"max_depth": 3, "nthread": 1, "disable_default_eval_metric": True}
SKLEARN = {"n_estimators": ROUNDS, "max_depth": 3, "n_jobs": 1}
# The loss, and XGBoost's own objective.
OF_KIND = {
    "two": (BINARY, {"objective": "binary:logistic"}),
    "several": (CROSS_ENTROPY, {"objective": "multi:softprob", "num_class": CLASSES}),
}


def classifier(xgboost, objective, **options):
    return xgboost.XGBClassifier(objective=objective.sklearn, **(SKLEARN | options))


class TestPeerXGBoost:
    """The same trees as the built-in objectives: a raw score differs in its last float32 digits."""

    @pytest.mark.parametrize("weighted", [False, True])
    def test_softmax_equals_the_built_in(self, xgboost, several, weighted):
        features, labels, weight = several
        data = xgboost.DMatrix(features, labels, weight=weight if weighted else None)
        settings = NATIVE | {"num_class": CLASSES, "base_score": 0.5}
        theirs = xgboost.train(settings | {"objective": "multi:softprob"}, data, 20)
        ours = xgboost.train(settings, data, 20, obj=XGBoostObjective(fastce.SoftmaxCrossEntropy()))
        self.same(ours, theirs, data)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_bce_equals_the_built_in(self, xgboost, two, weighted):
        features, labels, weight = two
        weight = weight if weighted else None
        data = xgboost.DMatrix(features, labels, weight=weight)
        objective = XGBoostObjective(fastce.BCEWithLogits())
        # XGBoost, too, starts at the log-odds; for a custom objective, base_score is a raw score.
        start = objective.initial_score(labels, weight)
        theirs = xgboost.train(NATIVE | {"objective": "binary:logistic"}, data, 20)
        ours = xgboost.train(NATIVE | {"base_score": start}, data, 20, obj=objective)
        self.same(ours, theirs, data)

    @staticmethod
    def same(ours, theirs, data):
        a, b = (model.predict(data, output_margin=True) for model in (ours, theirs))
        assert np.ptp(b) > 1
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert len(ours.get_dump()) == len(theirs.get_dump())

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_metric_equals_the_built_in(self, xgboost, request, kind, weighted):
        features, labels, weight = request.getfixturevalue(kind)
        data = xgboost.DMatrix(features, labels, weight=weight if weighted else None)
        loss, builtin = OF_KIND[kind]
        objective, history = XGBoostObjective(loss), {}
        settings = {"nthread": 1} | builtin  # by default they have the loss as their metric
        model = xgboost.train(settings, data, 5, evals=[(data, "a")], evals_result=history)
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
        model = classifier(xgboost, objective, eval_metric=objective.sklearn_metric, **settings)
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

    def test_softmax_of_two_classes(self, xgboost, two):
        features, labels, weight = two
        data = xgboost.DMatrix(features, labels, weight=weight)
        settings = NATIVE | {"num_class": 2, "base_score": 0.5}
        theirs = xgboost.train(settings | {"objective": "multi:softprob"}, data, 8)
        ours = xgboost.train(settings, data, 8, obj=XGBoostObjective(CROSS_ENTROPY))
        self.same(ours, theirs, data)

    def test_several_labels_a_sample(self, xgboost, several, rng):
        features, labels, _ = several
        targets = np.stack([labels > 1, labels % 2, features[:, 0] > 0], axis=1).astype(float)
        data = xgboost.DMatrix(features, targets)
        settings = NATIVE | {"tree_method": "hist"}
        theirs = xgboost.train(
            settings | {"base_score": 0.5, "objective": "binary:logistic"}, data, 8
        )
        ours = xgboost.train(
            settings | {"base_score": 0.0}, data, 8, obj=XGBoostObjective(fastce.BCEWithLogits())
        )
        self.same(ours, theirs, data)

    def test_focal_trains_where_a_plain_hessian_does_not(self, xgboost, two):
        """At a rare class's log-odds, each positive sample's second derivative is negative."""
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
            settings = NATIVE | {"min_child_weight": 0}
            model = xgboost.train(settings, data, 30, obj=objective)
            scores = model.predict(data, output_margin=True)
            gain[hessian] = objective.value(start, labels) - objective.value(scores, labels)
        assert gain["positive"] > 0
        assert gain["positive"] > 2 * gain["exact"]


class TestLifeCycle:
    """What the host does with an objective: if the docs are no longer true, a test notices."""

    def classifier(self, xgboost, loss=FOCAL, **options):
        return classifier(xgboost, XGBoostObjective(loss), **options)

    def test_early_stopping_obeys_the_metric(self, xgboost, several):
        train, valid = (xgboost.DMatrix(x, y, weight=w) for x, y, w in halves(several))
        objective, history = XGBoostObjective(CROSS_ENTROPY), {}
        booster = xgboost.train(
            NATIVE | {"num_class": CLASSES, "learning_rate": 1.5},
            train,
            200,
            obj=objective,
            custom_metric=objective.metric,
            evals=[(valid, "valid")],
            evals_result=history,
            early_stopping_rounds=5,
            verbose_eval=False,
        )
        is_least(history["valid"]["softmax_cross_entropy"], booster.best_iteration)
        (x, y, w), (x_valid, y_valid, w_valid) = halves(several)
        model = self.classifier(
            xgboost,
            CROSS_ENTROPY,
            eval_metric=objective.sklearn_metric,
            early_stopping_rounds=5,
            learning_rate=1.5,
        ).set_params(n_estimators=200)
        model.fit(
            x,
            y,
            sample_weight=w,
            eval_set=[(x_valid, y_valid)],
            sample_weight_eval_set=[w_valid],
            verbose=False,
        )
        assert model.best_iteration == booster.best_iteration

    def test_cv(self, xgboost, several):
        features, labels, weight = several
        objective = XGBoostObjective(FOCAL)
        table = xgboost.cv(
            NATIVE | {"num_class": CLASSES},
            xgboost.DMatrix(features, labels, weight=weight),
            ROUNDS,
            nfold=3,
            obj=objective,
            custom_metric=objective.metric,
            as_pandas=False,
        )
        means = table["test-softmax_focal_loss-mean"]
        assert len(means) == ROUNDS
        assert means[-1] < means[0]

    def test_clone_grid_search_and_score(self, xgboost, several):
        choices = [XGBoostObjective(loss).sklearn for loss in (FOCAL, CROSS_ENTROPY)]
        search(self.classifier(xgboost), choices, several, max_depth=[1, 3])

    def test_another_process(self, xgboost, several, tmp_path):
        features, labels, _ = several
        model = self.classifier(xgboost).fit(features, labels)
        want = model.predict(features, output_margin=True)
        for got in in_another_process(model, features, tmp_path, "predict(x, output_margin=True)"):
            np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_predict_takes_the_scores_for_logits(self, xgboost, request, kind):
        features, labels, _ = request.getfixturevalue(kind)
        model = self.classifier(xgboost, BINARY if kind == "two" else FOCAL).fit(features, labels)
        scores = model.predict(features, output_margin=True)
        assert np.any((scores > 0) != (scores > 0.5))  # otherwise it would show nothing
        assert_predictions(model, scores, features, labels, rtol=1e-5)

    def test_one_vs_rest_probabilities_are_those_of_a_softmax(self, xgboost, several):
        features, labels, _ = several
        model = self.classifier(xgboost, BINARY, n_estimators=5).fit(features, labels)
        scores = model.predict(features, output_margin=True)
        assert_predictions(model, scores, features, labels, rtol=1e-5)

    def test_where_boosting_starts(self, xgboost, two):
        features, labels, _ = two
        native, sklearn = [], []
        objective = XGBoostObjective(BINARY)

        def spy(scores, data):
            native.append(scores.copy())
            return objective(scores, data)

        def spy_of_sklearn(labels, scores):
            sklearn.append(scores.copy())
            return objective.sklearn(labels, scores)

        xgboost.train(NATIVE, xgboost.DMatrix(features, labels), 1, obj=spy)
        xgboost.XGBClassifier(objective=spy_of_sklearn, n_estimators=1).fit(features, labels)
        assert np.unique(native[0]).tolist() == [0.5]
        assert np.unique(sklearn[0]).tolist() == [0]

    def test_class_weights(self, xgboost, two):
        features, labels, _ = two
        data = xgboost.DMatrix(features, labels)
        objective = XGBoostObjective(BINARY)
        for value, is_refused in ((3, True), (1, False)):
            settings = NATIVE | {"scale_pos_weight": value}
            model = self.classifier(xgboost, BINARY, scale_pos_weight=value)
            if is_refused:
                for train in (
                    lambda s=settings: xgboost.train(s, data, 1, obj=objective),
                    lambda s=settings: xgboost.train(list(s.items()), data, 1, obj=objective),
                    lambda m=model: m.fit(features, labels),
                ):
                    with pytest.raises(ValueError, match=r"does not apply scale_pos_weight.*pos_w"):
                        train()
            else:
                xgboost.train(settings, data, 1, obj=objective)
                xgboost.train(list(settings.items()), data, 1, obj=objective)
                model.fit(features, labels)
        # Not found here, as the docs say.
        booster = xgboost.Booster(NATIVE | {"scale_pos_weight": 3}, [data])
        booster.update(data, 0, fobj=objective)

    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_metric_beside_an_objective_of_the_host(self, xgboost, request, kind):
        features, labels, _ = request.getfixturevalue(kind)
        data = xgboost.DMatrix(features, labels)
        loss, builtin = OF_KIND[kind]
        objective = XGBoostObjective(loss)

        def run(metric, obj=None, **options):
            history, settings = {}, {"nthread": 1} | builtin | options
            if obj is not None:
                del settings["objective"]
            xgboost.train(
                settings,
                data,
                3,
                obj=obj,
                evals=[(data, "a")],
                custom_metric=metric,
                evals_result=history,
                verbose_eval=False,
            )
            return history["a"]

        with pytest.raises(ValueError, match="use probability_metric, which takes"):
            run(objective.metric)
        own, ours = run(objective.probability_metric).values()
        np.testing.assert_allclose(ours, own, rtol=1e-5)
        if kind == "several":
            with pytest.raises(ValueError, match="softprob"):
                run(objective.probability_metric, objective="multi:softmax")

        with pytest.raises(ValueError, match=r"passes raw scores: use metric$"):
            run(objective.probability_metric, obj=objective)

        model = xgboost.XGBClassifier(eval_metric=objective.sklearn_metric, **SKLEARN)
        with pytest.raises(ValueError, match="use sklearn_probability_metric, which takes"):
            model.fit(features, labels, eval_set=[(features, labels)], verbose=False)
        model.set_params(eval_metric=objective.sklearn_probability_metric)
        model.fit(features, labels, eval_set=[(features, labels)], verbose=False)
        *_, ours = model.evals_result()["validation_0"].values()
        margins = model.predict(features, output_margin=True)
        assert ours[-1] == pytest.approx(objective.value(margins, labels), rel=1e-5)

    def test_metric_of_an_objective_that_predicts_raw_scores(self, xgboost, two):
        features, labels, weight = two
        data, objective, history = (
            xgboost.DMatrix(features, labels, weight=weight),
            XGBoostObjective(BINARY),
            {},
        )
        settings = {"nthread": 1, "objective": "binary:logitraw"}
        options = {"evals": [(data, "a")], "evals_result": history, "verbose_eval": False}
        model = xgboost.train(settings, data, 3, custom_metric=objective.metric, **options)
        p = 1 / (1 + np.exp(-model.predict(data, output_margin=True).astype(np.float64)))
        wanted = -np.average(np.log(np.where(labels == 1, p, 1 - p)), weights=weight)
        assert history["a"]["bce_with_logits"][-1] == pytest.approx(wanted, abs=1e-6)
        with pytest.raises(ValueError, match=r"logitraw\) the host passes raw scores: use metric$"):
            xgboost.train(settings, data, 1, custom_metric=objective.probability_metric, **options)

    def test_soft_labels(self, xgboost, several, rng):
        features, labels, weight = several
        hard = np.eye(CLASSES)[labels]
        objective = XGBoostObjective(CROSS_ENTROPY)
        settings = NATIVE | {"base_score": 0.5, "tree_method": "hist"}
        soft = xgboost.DMatrix(features, hard, weight=weight)
        scores = xgboost.train(settings, soft, 5, obj=objective).predict(soft, output_margin=True)
        data = xgboost.DMatrix(features, labels, weight=weight)
        same = xgboost.train(settings | {"num_class": CLASSES}, data, 5, obj=objective)
        np.testing.assert_allclose(scores, same.predict(data, output_margin=True), atol=1e-5)
        own = {"objective": objective.sklearn, "eval_metric": objective.sklearn_metric}
        options = SKLEARN | own | {"n_estimators": 5, "base_score": 0.5}
        model = xgboost.XGBRegressor(**options)
        model.fit(features, hard, sample_weight=weight, eval_set=[(features, hard)], verbose=False)
        np.testing.assert_allclose(model.predict(features, output_margin=True), scores, atol=1e-5)
        smoothed = 0.9 * hard + 0.1 / CLASSES
        wanted = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)(scores, labels)
        data = xgboost.DMatrix(features, smoothed)
        assert objective.metric(scores, data)[1] == pytest.approx(wanted, rel=1e-5)

    def test_the_host_refuses_negative_weights(self, xgboost, two):
        features, labels, weight = two
        with pytest.raises(xgboost.core.XGBoostError, match="positive"):
            xgboost.train({}, xgboost.DMatrix(features, labels, weight=-weight), 1)

    def test_errors_say_what_to_pass(self, xgboost, two, several):
        features, labels, weight = several
        objective = XGBoostObjective(FOCAL)
        data = xgboost.DMatrix(features, labels)
        with pytest.raises(ValueError, match=r"needs scores of shape \(n, K\).*num_class"):
            xgboost.train(NATIVE, data, 1, obj=objective)
        # Otherwise predict and predict_proba would take each of two scores for log-odds.
        for options in ({}, {"num_class": 2}):
            model = self.classifier(xgboost, **options)
            with pytest.raises(ValueError, match=r"BCEWithLogits.*two classes.*got Softmax"):
                model.fit(*two[:2])
        model = xgboost.XGBClassifier(objective=objective, n_estimators=1)
        for options in ({}, {"sample_weight": weight}):
            with pytest.raises(TypeError, match="use its method sklearn"):
                model.fit(features, labels, **options)
        with pytest.raises(TypeError, match="use the objective itself"):
            xgboost.train(NATIVE | {"num_class": CLASSES}, data, 1, obj=objective.sklearn)
        model = self.classifier(xgboost, eval_metric=objective.metric)
        with pytest.raises(TypeError, match="use sklearn_metric"):
            model.fit(features, labels, eval_set=[(features, labels)])
