"""Objectives for CatBoost, in the real host: training, built-in objectives, life cycle."""

from __future__ import annotations

import numpy as np
import pytest
from boosting import (
    BINARY,
    CLASSES,
    CROSS_ENTROPY,
    FOCAL,
    ROUNDS,
    SIGMOID,
    SOFTMAX,
    assert_predictions,
    halves,
    in_another_process,
    is_least,
    scores_and_labels,
)

import fastce
from fastce.objectives import CatBoostObjective

# CatBoost has other defaults for custom objectives: here both get the same settings.
SETTINGS = {
    "iterations": ROUNDS,
    "learning_rate": 0.5,
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


class TestPeerCatBoost:
    @pytest.mark.filterwarnings("error:Failed to optimize")
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("kind", ["two", "several"])
    def test_model_and_metric_equal_the_built_in(self, catboost, two, several, kind, weighted):
        features, labels, weight = {"two": two, "several": several}[kind]
        if kind == "several":  # one Python call per row
            features, labels, weight = features[:300], labels[:300], weight[:300]
        weight = weight if weighted else None
        loss = fastce.BCEWithLogits() if kind == "two" else fastce.SoftmaxCrossEntropy()
        objective = CatBoostObjective(loss)
        builtin = "Logloss" if kind == "two" else "MultiClass"
        count = {} if kind == "two" else {"classes_count": CLASSES}
        theirs = catboost.CatBoostClassifier(loss_function=builtin, **SETTINGS)
        ours = catboost.CatBoostClassifier(
            loss_function=objective, eval_metric=objective, **SETTINGS, **count
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

    def test_sum_of_weights_keeps_its_digits_and_overflows_to_nan(self):
        objective = CatBoostObjective(fastce.BCEWithLogits())
        count = 4_000_000
        zeros = np.zeros(count)
        error, total = objective.evaluate((zeros,), zeros, np.full(count, 0.1))
        # NumPy's sum of 4 million doubles is off by 9e-15 in 2.0, and by less than 5e-16 in 2.4.
        assert total == pytest.approx(0.1 * count, rel=2e-14)
        assert objective.get_final_error(error, total) == pytest.approx(np.log(2), rel=2e-14)
        parts = objective.evaluate((zeros[:4],), zeros[:4], np.full(4, 1e308))
        assert np.isnan(objective.get_final_error(*parts))

    def test_ignored_samples_count_nothing(self, rng):
        objective = CatBoostObjective(fastce.SoftmaxCrossEntropy(ignore_index=2))
        der1, der2 = objective.calc_ders_multi(rng.normal(size=CLASSES), 2.0, 1.0)
        assert not der1.any()
        assert not der2.any()
        approxes = tuple(rng.normal(size=(CLASSES, 3)))
        _, total = objective.evaluate(approxes, np.array([0.0, 2.0, 1.0]), None)
        assert total == 2


class TestFloorOfTheMatrix:
    @pytest.mark.parametrize("floor", [0.05, 0.5])
    @pytest.mark.parametrize("loss", [CROSS_ENTROPY, *SOFTMAX[2:]], ids=repr)
    def test_bounds_the_diagonal_and_the_step(self, loss, floor, rng):
        """Only differences of scores count. A sample moves that of its label by at most 1/floor."""
        scores, labels = scores_and_labels(rng, rows=60, size=2.0)
        steps = []
        for row, label in zip(scores, labels, strict=True):
            grad, hess = CatBoostObjective(loss, floor=floor).calc_ders_multi(row, label, None)
            diagonal = np.diag(-hess)
            assert np.all(diagonal >= floor * np.abs(grad) * (1 - 1e-12))
            _, without = CatBoostObjective(loss, floor=0).calc_ders_multi(row, label, None)
            assert np.linalg.eigvalsh(without - hess)[0] > -1e-12
            # Take the score of another class as 0, and solve for the others.
            free = np.delete(np.arange(CLASSES), (label + 1) % CLASSES)
            step = np.zeros(CLASSES)
            step[free] = np.linalg.solve(-hess[np.ix_(free, free)], grad[free])
            others = np.delete(step, label)
            np.testing.assert_allclose(others, others[0], atol=1e-9)
            steps.append(step[label] - others[0])
        assert np.min(steps) > 0
        assert np.max(steps) == pytest.approx(1 / floor, rel=1e-6)

    def test_two_classes_are_one_score(self):
        """A softmax of two classes is the sigmoid of the difference."""
        one = CatBoostObjective(fastce.SigmoidFocalLoss(gamma=2.0, alpha=None))
        two = CatBoostObjective(fastce.SoftmaxFocalLoss(gamma=2.0))
        for score in np.arange(-12.0, 12.0):
            (_, wanted), = one.calc_ders_range([score], [1.0], None)  # fmt: skip
            _, found = two.calc_ders_multi([0.0, score], 1.0, None)
            np.testing.assert_allclose(found, [[wanted, -wanted], [-wanted, wanted]], rtol=1e-11)


class TestLifeCycle:
    """What the host does with an objective: if the docs are no longer true, a test notices."""

    def classifier(self, catboost, loss=BINARY, names=(0, 1), **options):
        objective = CatBoostObjective(loss)
        if names is not None:
            options["class_names"] = tuple(names)  # clone() needs it: CatBoost copies a list
        return catboost.CatBoostClassifier(
            loss_function=objective, eval_metric=objective, **(SETTINGS | options)
        )

    def test_early_stopping_obeys_the_metric(self, catboost, two):
        (x, y, w), (x_valid, y_valid, w_valid) = halves(two)
        model = self.classifier(catboost, iterations=300, learning_rate=1.0)
        pool = catboost.Pool(x_valid, y_valid, weight=w_valid)
        model.fit(x, y, sample_weight=w, eval_set=pool, early_stopping_rounds=5)
        (history,) = model.evals_result_["validation"].values()
        is_least(history, model.best_iteration_)

    def test_cv(self, catboost, two):
        features, labels, _ = two
        objective = CatBoostObjective(BINARY)
        table = catboost.cv(
            catboost.Pool(features, labels),
            SETTINGS | {"loss_function": objective, "eval_metric": objective},
            fold_count=3,
            as_pandas=False,
        )
        means = table["test-CatBoostObjective-mean"]
        assert len(means) == ROUNDS
        assert means[-1] < means[0]

    def test_clone_grid_search_and_score(self, catboost, two):
        """Scikit-learn expects the same objects in a clone, but CatBoost copies lists."""
        base, selection = (pytest.importorskip(f"sklearn.{m}") for m in ("base", "model_selection"))
        features, labels, _ = two
        model = self.classifier(catboost)
        objective = model.get_params()["loss_function"]
        assert base.clone(model).get_params()["loss_function"] is objective
        scores = selection.cross_val_score(model, features, labels, cv=3, error_score="raise")
        assert scores.min() > 0.8
        with pytest.raises(RuntimeError, match="modifies parameter class_names"):
            base.clone(model.copy().set_params(class_names=[0, 1]))
        search = selection.GridSearchCV(model, {"depth": [1, 3]}, cv=3, error_score="raise")
        assert search.fit(features, labels).best_score_ > 0.8

    def test_another_process(self, catboost, two, tmp_path):
        features, labels, _ = two
        model = self.classifier(catboost).fit(features, labels)
        call = "predict(x, prediction_type='RawFormulaVal')"
        want = model.predict(features, prediction_type="RawFormulaVal")
        for got in in_another_process(model, features, tmp_path, call):
            np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("kind", ["two", "several", "one-vs-rest"])
    def test_predict_and_score(self, catboost, two, several, kind):
        features, labels, _ = two if kind == "two" else several
        features, labels = features[:400], labels[:400]
        loss = CROSS_ENTROPY if kind == "several" else BINARY
        names = range(2 if kind == "two" else CLASSES)
        model = self.classifier(catboost, loss, names).fit(features, labels)
        assert model.classes_.tolist() == list(names)
        scores = model.predict(features, prediction_type="RawFormulaVal")
        assert_predictions(model, scores, features, labels, rtol=1e-9)

    def test_without_class_names_there_is_no_predict(self, catboost, two):
        features, labels, _ = two
        model = self.classifier(catboost, names=None).fit(features, labels)
        assert len(model.classes_) == 0
        with pytest.raises(IndexError):
            model.predict(features)

    def test_defaults(self, catboost, two):
        features, labels, _ = two
        objective = CatBoostObjective(BINARY)
        own = {"iterations": 2, "verbose": False, "allow_writing_files": False}
        model = catboost.CatBoostClassifier(
            loss_function=objective, eval_metric=objective, thread_count=1, **own
        )
        found = model.fit(features, labels).get_all_params()
        assert found["learning_rate"] == pytest.approx(0.03)
        assert found["leaf_estimation_method"] == "Newton"
        assert found["leaf_estimation_iterations"] == 1

    def test_where_boosting_starts(self, catboost, two):
        features, labels, _ = two
        starts = []

        class Spy(CatBoostObjective):
            def calc_ders_range(self, approxes, targets, weights):
                starts.append(np.array(approxes))
                return super().calc_ders_range(approxes, targets, weights)

        objective = Spy(BINARY)
        settings = SETTINGS | {"iterations": 1}
        catboost.CatBoostClassifier(
            loss_function=objective, eval_metric=objective, **settings
        ).fit(features, labels)  # fmt: skip
        assert np.unique(starts[0]).tolist() == [0]

    @pytest.mark.parametrize(
        "option", [{"class_weights": [1.0, 10.0]}, {"auto_class_weights": "Balanced"}], ids=str
    )
    def test_class_weights(self, catboost, two, option):
        features, labels, _ = two
        objective = CatBoostObjective(BINARY)
        lost = "does not apply class_weights.*pass class_names"
        with pytest.raises(catboost.CatBoostError, match=lost):
            self.classifier(catboost, names=None, **option).fit(features, labels)
        own = {"loss_function": objective, "eval_metric": objective} | SETTINGS | option
        with pytest.raises(catboost.CatBoostError, match=lost):
            catboost.cv(catboost.Pool(features, labels), own, fold_count=2)
        with pytest.raises(catboost.CatBoostError, match=lost):
            catboost.train(catboost.Pool(features, labels), own)
        models = (
            self.classifier(catboost, **option),
            self.classifier(catboost, names=None, classes_count=2, **option),
            catboost.CatBoostClassifier(loss_function="Logloss", **SETTINGS, **option),
        )
        ours, counted, theirs = (
            m.fit(features, labels).predict(features, prediction_type="RawFormulaVal")
            for m in models
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        np.testing.assert_allclose(counted, theirs, atol=1e-12)

    def test_every_class_needs_a_sample(self, catboost, several):
        """Without one, CatBoost passes fewer scores, and would give its predictions wrong names."""
        features, labels, _ = (a[:300] for a in several)
        last = CLASSES - 1
        kept = labels != 1
        lost = f"passes scores for {last} of {CLASSES} classes: leave out classes without a sample"
        for loss in (CROSS_ENTROPY, BINARY):
            for known in (
                {"class_names": tuple(range(CLASSES))},
                {"classes_count": CLASSES},
                {"class_weights": dict.fromkeys(range(CLASSES), 1.0)},
            ):
                model = self.classifier(catboost, loss, names=None, iterations=2, **known)
                with pytest.raises(catboost.CatBoostError, match=lost):
                    model.fit(features[kept], labels[kept])
                model.fit(features, labels)
            names = [name for name in range(CLASSES) if name != 1]
            model = self.classifier(catboost, loss, names).fit(features[kept], labels[kept])
            assert model.score(features[kept], labels[kept]) > 0.5
        objective = CatBoostObjective(CROSS_ENTROPY)
        own = {"loss_function": objective, "eval_metric": objective, "classes_count": CLASSES}
        with pytest.raises(catboost.CatBoostError, match=lost):
            catboost.cv(catboost.Pool(features[kept], labels[kept]), SETTINGS | own, fold_count=2)

    def test_one_score_does_not_fit_several_classes(self):
        """CatBoost itself passes one score for two classes only."""
        host = {"__name__": "catboost.core"}
        exec("def _train(params, call): return call()", host)
        objective = CatBoostObjective(BINARY)

        def call():
            return objective.calc_ders_range(np.zeros(2), np.zeros(2), None)

        assert host["_train"]({"class_names": (0, 1)}, call).shape == (2, 2)
        with pytest.raises(ValueError, match="scores for 1 of 3 classes"):
            host["_train"]({"classes_count": 3}, call)

    def test_metric_beside_an_objective_of_the_host(self, catboost, two):
        """CatBoost gives raw scores to every metric."""
        features, labels, _ = two
        model = catboost.CatBoostClassifier(
            loss_function="Logloss", eval_metric=CatBoostObjective(BINARY), **SETTINGS
        ).fit(features, labels)
        history = model.evals_result_["learn"]
        np.testing.assert_allclose(history["CatBoostObjective"], history["Logloss"], rtol=5e-4)

    def test_the_host_refuses_negative_weights(self, catboost, two):
        features, labels, weight = two
        with pytest.raises(catboost.CatBoostError, match="negative"):
            self.classifier(catboost).fit(features, labels, sample_weight=-weight)

    def test_errors_say_what_to_pass(self, catboost, several):
        features, labels, _ = several
        with pytest.raises(catboost.CatBoostError, match=r"needs scores of shape.*classes_count"):
            self.classifier(catboost, FOCAL, names=None).fit(features[:50], labels[:50])
