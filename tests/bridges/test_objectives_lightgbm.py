"""Objectives for LightGBM, in the real host: training, built-in objectives, life cycle."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from boosting import (
    BINARY,
    CLASSES,
    CROSS_ENTROPY,
    FOCAL,
    ROUNDS,
    halves,
    in_another_process,
    is_least,
    search,
)

import fastce
from fastce.objectives import LightGBMObjective

# The loss, LightGBM's own objective, and the setting for the number of classes.
OF_KIND = {
    "two": (BINARY, "binary", {}),
    "several": (CROSS_ENTROPY, "multiclass", {"num_class": CLASSES}),
}


def trained(lightgbm, settings, data, rounds, feval=None):
    """Return a booster, and the history of its metrics on its own data."""
    history = {}
    booster = lightgbm.train(
        settings,
        data,
        rounds,
        valid_sets=[data],
        valid_names=["own"],
        feval=feval,
        callbacks=[lightgbm.record_evaluation(history)],
    )
    return booster, history["own"]


def scores_of(lightgbm, settings, samples, rounds, **options):
    """Return the raw scores of a booster on the samples that it was trained on."""
    features, labels, weight = samples
    data = lightgbm.Dataset(features, labels, weight=weight, **options)
    return lightgbm.train(settings, data, rounds).predict(features, raw_score=True)


SKLEARN = {"n_estimators": ROUNDS, "num_leaves": 7, "n_jobs": 1, "verbose": -1, "metric": "None"}


def classifier(lightgbm, objective, **options):
    """An option of None is left out."""
    options = {name: x for name, x in (SKLEARN | options).items() if x is not None}
    return lightgbm.LGBMClassifier(objective=objective.sklearn, **options)


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
        samples = (*several[:2], several[2] if weighted else None)
        settings = self.SETTINGS | {"num_class": CLASSES, "boost_from_average": False}
        ours, theirs = (
            scores_of(lightgbm, settings | {"objective": objective}, samples, 20)
            for objective in (LightGBMObjective(loss), builtin)
        )
        self.same(ours, theirs)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_initial_score_equals_boost_from_average(self, lightgbm, request, kind, weighted):
        features, labels, weight = request.getfixturevalue(kind)
        samples = features, labels, weight if weighted else None
        loss, builtin, count = OF_KIND[kind]
        settings, objective = self.SETTINGS | count, LightGBMObjective(loss)
        theirs = scores_of(lightgbm, settings | {"objective": builtin}, samples, 20)
        start = objective.initial_score(*samples[1:])
        init_score = np.broadcast_to(start, (labels.size, *np.shape(start))).copy()
        settings |= {"objective": objective}
        ours = scores_of(lightgbm, settings, samples, 20, init_score=init_score)
        self.same(ours + start, theirs)

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
        data = lightgbm.Dataset(features, labels, weight=weight, free_raw_data=False)
        own = {"objective": objective, "num_class": CLASSES, "metric": "None"}
        settings = self.SETTINGS | own | {"min_data_in_leaf": 5}
        native, history = trained(lightgbm, settings, data, ROUNDS, objective.metric)
        options = {"min_child_samples": 5, "deterministic": True}
        model = classifier(lightgbm, objective, **options)
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
        (mean,) = history.values()
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
        objective = LightGBMObjective(fastce.SoftmaxCrossEntropy())
        settings = self.SETTINGS | {"num_class": CLASSES}
        own = {"objective": objective, "metric": "None"}
        _, ours = trained(lightgbm, settings | own, data, 4, objective.metric)
        # With a custom objective, LightGBM's own metric takes raw scores for probabilities, so ours
        # is compared with a built-in run.
        builtin = {"objective": "multiclass", "boost_from_average": False}
        _, theirs = trained(lightgbm, settings | builtin, data, 4)
        np.testing.assert_allclose(
            ours["softmax_cross_entropy"], theirs["multi_logloss"], rtol=1e-6
        )


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
class TestLifeCycle:
    """What the host does with an objective: if the docs are no longer true, a test notices."""

    NATIVE: ClassVar = {"num_leaves": 7, "num_threads": 1, "verbose": -1, "metric": "None"}

    def classifier(self, lightgbm, loss=FOCAL, **options):
        return classifier(lightgbm, LightGBMObjective(loss), **options)

    def test_early_stopping_obeys_the_metric(self, lightgbm, two):
        """By default the classifier stops where LightGBM's own metric of raw scores is best."""
        objective, history = LightGBMObjective(fastce.BCEWithLogits(pos_weight=5.0)), {}
        (x, y, _), (x_valid, y_valid, _) = halves(two)
        train = lightgbm.Dataset(x, y)
        stop = lightgbm.early_stopping(5, verbose=False)
        booster = lightgbm.train(
            self.NATIVE | {"objective": objective},
            train,
            200,
            valid_sets=[lightgbm.Dataset(x_valid, y_valid, reference=train)],
            valid_names=["valid"],
            feval=objective.metric,
            callbacks=[stop, lightgbm.record_evaluation(history)],
        )
        (values,) = history["valid"].values()
        is_least(values, booster.best_iteration - 1)

        def best(**options):
            model = self.classifier(lightgbm, objective.loss, n_estimators=200, **options)
            model.fit(
                x,
                y,
                eval_set=[(x_valid, y_valid)],
                eval_metric=objective.sklearn_metric,
                callbacks=[lightgbm.early_stopping(5, verbose=False)],
            )
            return model.best_iteration_

        assert best() == booster.best_iteration
        with pytest.warns(UserWarning, match=r"binary_logloss, which treats raw.*metric='None'"):
            other = best(metric=None)
        assert other < booster.best_iteration / 2

    def test_cv(self, lightgbm, several):
        features, labels, weight = several
        objective = LightGBMObjective(FOCAL)
        table = lightgbm.cv(
            self.NATIVE | {"objective": objective, "num_class": CLASSES},
            lightgbm.Dataset(features, labels, weight=weight),
            ROUNDS,
            nfold=3,
            feval=objective.metric,
        )
        means = table["valid softmax_focal_loss-mean"]
        assert len(means) == ROUNDS
        assert means[-1] < means[0]

    def test_clone_grid_search_and_score(self, lightgbm, several):
        choices = [LightGBMObjective(loss).sklearn for loss in (FOCAL, CROSS_ENTROPY)]

        def score(model, x, y):
            return (model.predict(x, raw_score=True).argmax(axis=1) == y).mean()

        search(self.classifier(lightgbm), choices, several, score, num_leaves=[3, 7])

    def test_another_process(self, lightgbm, several, tmp_path):
        features, labels, _ = several
        model = self.classifier(lightgbm).fit(features, labels)
        want = model.predict(features, raw_score=True)
        for got in in_another_process(model, features, tmp_path, "predict(x, raw_score=True)"):
            np.testing.assert_array_equal(got, want)

    def test_predict_gives_raw_scores_and_score_needs_labels(self, lightgbm, two):
        features, labels, _ = two
        model = self.classifier(lightgbm, BINARY).fit(features, labels)
        scores = model.predict(features, raw_score=True)
        assert ((scores > 0) == labels).mean() > 0.8
        with pytest.warns(UserWarning, match="Returning raw scores"):
            np.testing.assert_array_equal(model.predict(features), scores)
        with (
            pytest.warns(UserWarning, match="Returning raw scores"),
            pytest.raises(ValueError, match="continuous"),
        ):
            model.score(features, labels)

    def test_where_boosting_starts(self, lightgbm, two):
        features, labels, _ = two
        starts, objective = [], LightGBMObjective(BINARY)

        def spy(scores, data):
            starts.append(scores.copy())
            return objective(scores, data)

        data = lightgbm.Dataset(features, labels)
        lightgbm.train(self.NATIVE | {"objective": spy}, data, 1)
        assert np.unique(starts[0]).tolist() == [0]

    def test_class_weights(self, lightgbm, two):
        features, labels, _ = two
        objective = LightGBMObjective(BINARY)
        for option in ({"is_unbalance": True}, {"scale_pos_weight": 3.0}):
            with pytest.raises(ValueError, match="does not apply is_unbalance"):
                lightgbm.train(
                    self.NATIVE | option | {"objective": objective},
                    lightgbm.Dataset(features, labels),
                    1,
                )
            with pytest.raises(ValueError, match="does not apply is_unbalance"):
                self.classifier(lightgbm, BINARY, **option).fit(features, labels)
        weighted = self.classifier(lightgbm, BINARY, class_weight={0: 1.0, 1: 3.0})
        same = self.classifier(lightgbm, BINARY).fit(
            features, labels, sample_weight=np.where(labels == 1, 3.0, 1.0)
        )
        models = weighted.fit(features, labels), same
        np.testing.assert_array_equal(*(m.predict(features, raw_score=True) for m in models))

    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_metric_beside_an_objective_of_the_host(self, lightgbm, request, kind):
        features, labels, weight = request.getfixturevalue(kind)
        # One data set for all, because LightGBM keeps the parameters of its first use.
        data = lightgbm.Dataset(features, labels, weight=weight, free_raw_data=False)
        loss, builtin, count = OF_KIND[kind]
        objective = LightGBMObjective(loss)
        settings = {"num_threads": 1, "verbose": -1, "objective": builtin} | count

        def run(feval, **options):
            return trained(lightgbm, settings | options, data, 3, feval)[1]

        with pytest.raises(ValueError, match="use probability_metric, which takes"):
            run(objective.metric)
        own, ours = run(objective.probability_metric).values()
        np.testing.assert_allclose(ours, own, rtol=1e-6)
        custom = {"objective": objective, "metric": "None"}  # with the same data set
        run(objective.metric, **custom)
        with pytest.raises(ValueError, match=r"passes raw scores: use metric$"):
            run(objective.probability_metric, **custom)

        model = lightgbm.LGBMClassifier(**SKLEARN | {"metric": ""})
        options = {"eval_set": [(features, labels)]}
        with pytest.raises(ValueError, match="use sklearn_probability_metric, which takes"):
            model.fit(features, labels, eval_metric=objective.sklearn_metric, **options)
        model.fit(features, labels, eval_metric=objective.sklearn_probability_metric, **options)
        own, ours = model.evals_result_["training"].values()
        np.testing.assert_allclose(ours, own, rtol=1e-6)

    @pytest.mark.parametrize(
        "name", ["objective", "objective_type", "app", "application", "loss", "of a subclass"]
    )
    def test_metric_finds_the_objective(self, lightgbm, two, name):
        features, labels, weight = two
        data, kind = lightgbm.Dataset(features, labels, weight=weight), lightgbm.Booster
        if name == "of a subclass":
            name, kind = "objective", type("Derived", (lightgbm.Booster,), {})
        booster = kind({name: "binary", "num_threads": 1, "verbose": -1}, data)
        booster.update()
        objective = LightGBMObjective(BINARY)
        with pytest.raises(ValueError, match="use probability_metric, which takes"):
            booster.eval_train(feval=objective.metric)
        (_, _, theirs, _), (_, _, ours, _) = (
            booster.eval_train(feval=feval)[-1] for feval in (None, objective.probability_metric)
        )
        assert ours == pytest.approx(theirs, rel=1e-6)

    def test_metric_of_weights_without_a_positive_sum(self, lightgbm, two):
        features, labels, weight = two
        data = lightgbm.Dataset(features, labels, weight=-weight)
        objective = LightGBMObjective(BINARY)
        settings = self.NATIVE | {"objective": objective}
        with pytest.raises(ValueError, match=r"sample_weight must have a positive.*or none$"):
            trained(lightgbm, settings, data, 1, objective.metric)

    def test_soft_labels_by_a_function_of_ones_own(self, lightgbm, several):
        """A Dataset holds one label per sample: probabilities stay outside."""
        features, labels, _ = several
        objective = LightGBMObjective(CROSS_ENTROPY)
        soft = 0.9 * np.eye(CLASSES)[labels] + 0.1 / CLASSES
        settings, samples = self.NATIVE | {"num_class": CLASSES}, (features, labels, None)

        def of_soft(scores, data):
            return objective.derivatives(scores, soft)

        smoothed = LightGBMObjective(fastce.SoftmaxCrossEntropy(label_smoothing=0.1))
        scores = [
            scores_of(lightgbm, settings | {"objective": chosen}, samples, 5)
            for chosen in (of_soft, smoothed)
        ]
        np.testing.assert_allclose(*scores, atol=1e-6)

    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_negative_weights_give_the_model_of_the_host(self, lightgbm, request, kind):
        features, labels, weight = request.getfixturevalue(kind)
        weight = np.where(np.arange(weight.size) % 10 == 0, -0.5 * weight, weight)
        loss, builtin, count = OF_KIND[kind]
        settings = self.NATIVE | {"boost_from_average": False, "min_data_in_leaf": 50} | count
        scores = [
            scores_of(lightgbm, settings | {"objective": objective}, (features, labels, weight), 5)
            for objective in (LightGBMObjective(loss), builtin)
        ]
        assert np.ptp(scores[1]) > 0.5
        np.testing.assert_allclose(*scores, atol=1e-5)

    def test_errors_say_what_to_pass(self, lightgbm, two, several):
        features, labels, _ = several
        objective = LightGBMObjective(FOCAL)

        def train(objective, **options):
            settings = self.NATIVE | options | {"objective": objective}
            lightgbm.train(settings, lightgbm.Dataset(features, labels), 1)

        with pytest.raises(ValueError, match=r"needs scores of shape \(n, K\).*num_class"):
            train(objective)
        with pytest.raises(TypeError, match="use the objective itself"):
            train(lambda preds, data: objective.sklearn(preds, data, None), num_class=CLASSES)
        with pytest.raises(ValueError, match=r"needs scores of shape.*BCEWithLogits"):
            self.classifier(lightgbm).fit(*two[:2])
        model = lightgbm.LGBMClassifier(objective=objective, **SKLEARN)
        with pytest.raises(TypeError, match="use its method sklearn"):
            model.fit(features, labels)
