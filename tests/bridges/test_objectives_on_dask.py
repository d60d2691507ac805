"""Objectives in XGBoost and LightGBM on Dask give the models of a single machine."""

from __future__ import annotations

import contextlib
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import worker_processes
from processes import SUPPORT, finish

import fastce
from fastce.objectives import LightGBMObjective, XGBoostObjective

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")
pytest.importorskip("pyarrow")  # dask.dataframe, which both hosts import, needs it

pytestmark = pytest.mark.filterwarnings("default")

CLASSES, ROWS, CHUNKS, ROUNDS = 4, 1200, 6, 15
LOSSES = [
    fastce.SoftmaxCrossEntropy(),
    fastce.SoftmaxCrossEntropy(label_smoothing=0.1),
    fastce.SoftmaxFocalLoss(gamma=2.0),
    fastce.BCEWithLogits(),
    fastce.SigmoidFocalLoss(gamma=2.0),
]
# The hosts' own versions of these objectives. Both start at a score of 0: a probability of 0.5.
OF_XGBOOST = {
    fastce.SoftmaxCrossEntropy(): {"objective": "multi:softprob", "base_score": 0.0},
    fastce.BCEWithLogits(): {"objective": "binary:logistic", "base_score": 0.5},
}
OF_LIGHTGBM = {fastce.SoftmaxCrossEntropy(): "multiclass", fastce.BCEWithLogits(): "binary"}


@pytest.fixture(scope="module")
def client():
    with worker_processes(2) as client:
        yield client


def problem(loss: Any, is_weighted: bool) -> dict[str, Any]:
    """Features, labels and weights, for a loss.

    The hosts bin the features by a sketch or a sample, so several workers make other bins than one
    machine. Features with few values, all of which every worker has, get one bin per value.
    """
    rng = np.random.default_rng(1)
    x = rng.integers(10, size=(ROWS, 5)).astype(np.float64)
    scores = x @ rng.normal(size=(5, CLASSES)) + 3 * rng.gumbel(size=(ROWS, CLASSES))
    y = scores.argmax(axis=1)
    if number_of_classes(loss) == 1:
        y = (y == 0).astype(np.int64)
    weight = {"weight": rng.integers(1, 4, size=ROWS) / 2} if is_weighted else {}
    return {"data": x, "label": y, **weight}


def number_of_classes(loss: Any) -> int:
    return CLASSES if hasattr(loss, "class_weight_name") else 1


def spread(client: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays in chunks of rows, spread over both workers."""
    chunked = {
        name: client.persist(da.from_array(array, (ROWS // CHUNKS, *array.shape[1:])))
        for name, array in arrays.items()
    }
    distributed.wait(list(chunked.values()))
    places = client.who_has(chunked["data"]).values()
    assert len({worker for workers in places for worker in workers}) == 2
    return chunked


def assert_same_scores(a: Any, b: Any) -> None:
    assert np.ptp(b) > 1  # something was learnt
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# XGBoost ------------------------------------------------------------------------------------------


def settings_of_xgboost(loss: Any) -> dict[str, Any]:
    classes = number_of_classes(loss)
    settings = {"max_depth": 3, "nthread": 1, "base_score": 0.0, "disable_default_eval_metric": 1}
    return settings | ({"num_class": classes} if classes > 1 else {})


def boost_on_dask(client: Any, arrays: dict[str, Any], settings: Any, **options: Any) -> Any:
    xgboost_dask = pytest.importorskip("xgboost.dask")
    data = xgboost_dask.DaskDMatrix(client, **spread(client, arrays))
    assert len(data.worker_map) == 2
    return xgboost_dask.train(
        client, settings, data, ROUNDS, evals=[(data, "train")], verbose_eval=False, **options
    )


class TestXGBoost:
    @pytest.mark.parametrize("is_weighted", [False, True])
    @pytest.mark.parametrize("loss", LOSSES, ids=str)
    def test_equals_a_single_machine(self, loss, is_weighted, client):
        xgboost = pytest.importorskip("xgboost")
        arrays, settings = problem(loss, is_weighted), settings_of_xgboost(loss)
        objective = XGBoostObjective(loss)
        options = {"obj": objective, "custom_metric": objective.metric}
        result = boost_on_dask(client, arrays, settings, **options)
        data = xgboost.DMatrix(**arrays)
        history: Any = {}
        options |= {"evals": [(data, "train")], "evals_result": history, "verbose_eval": False}
        alone = xgboost.train(settings, data, ROUNDS, **options)
        a, b = (model.predict(data, output_margin=True) for model in (result["booster"], alone))
        assert_same_scores(a, b)
        # The metric of several workers is the plain mean of theirs.
        a, b = (evals["train"][objective.name] for evals in (result["history"], history))
        assert a[-1] < a[0]
        np.testing.assert_allclose(a, b, rtol=0.1)

    @pytest.mark.parametrize("loss", OF_XGBOOST, ids=str)
    def test_equals_its_own_objective(self, loss, client):
        xgboost = pytest.importorskip("xgboost")
        arrays, settings = problem(loss, True), settings_of_xgboost(loss)
        ours = boost_on_dask(client, arrays, settings, obj=XGBoostObjective(loss))
        theirs = boost_on_dask(client, arrays, settings | OF_XGBOOST[loss])
        data = xgboost.DMatrix(**arrays)
        a, b = (result["booster"].predict(data, output_margin=True) for result in (ours, theirs))
        assert_same_scores(a, b)

    def test_classifier_equals_a_single_machine(self, client):
        xgboost = pytest.importorskip("xgboost")
        xgboost_dask = pytest.importorskip("xgboost.dask")
        arrays = problem(LOSSES[2], True)
        options = {"objective": XGBoostObjective(LOSSES[2]).sklearn, "n_estimators": ROUNDS}
        options |= {"max_depth": 3, "n_jobs": 1, "base_score": 0.0}
        chunked = spread(client, arrays)
        model = xgboost_dask.DaskXGBClassifier(**options)
        model.client = client
        model.fit(chunked["data"], chunked["label"], sample_weight=chunked["weight"])
        alone = xgboost.XGBClassifier(**options)
        alone.fit(arrays["data"], arrays["label"], sample_weight=arrays["weight"])
        data = xgboost.DMatrix(arrays["data"])
        a, b = (m.get_booster().predict(data, output_margin=True) for m in (model, alone))
        assert_same_scores(a, b)

    @pytest.mark.parametrize("empty", ["train", "evals"])
    @pytest.mark.parametrize("target", ["labels", "probabilities", "two classes"])
    def test_worker_without_rows(self, target, empty, client):
        """XGBoost gives it scores of shape (0,) for any number of classes, and takes (0, K)."""
        xgboost, xgboost_dask = (pytest.importorskip(f"xgboost{m}") for m in ("", ".dask"))
        loss = LOSSES[3] if target == "two classes" else LOSSES[0]
        arrays, settings = problem(loss, False), settings_of_xgboost(loss)
        if target == "probabilities":
            arrays["label"] = 0.9 * np.eye(CLASSES)[arrays["label"]] + 0.1 / CLASSES
            del settings["num_class"]
        one_chunk = {name: client.persist(da.from_array(a, -1)) for name, a in arrays.items()}
        data = [
            xgboost_dask.DaskDMatrix(client, **chunked)
            for chunked in (one_chunk, spread(client, arrays))
        ]
        assert [len(matrix.worker_map) for matrix in data] == [1, 2]
        train, evaluated = data if empty == "train" else data[::-1]
        objective = XGBoostObjective(loss)
        options = {"obj": objective, "custom_metric": objective.metric, "verbose_eval": False}
        result = xgboost_dask.train(
            client, settings, train, ROUNDS, evals=[(evaluated, "e")], **options
        )
        whole, history = xgboost.DMatrix(**arrays), {}
        alone = xgboost.train(
            settings, whole, ROUNDS, evals=[(whole, "e")], evals_result=history, **options
        )
        a, b = (model.predict(whole, output_margin=True) for model in (result["booster"], alone))
        assert_same_scores(a, b)
        # The worker without rows counts as 0 in the mean of both.
        share = 1.0 if empty == "train" else 0.5
        a, b = (evals["e"][objective.name] for evals in (result["history"], history))
        np.testing.assert_allclose(a, share * np.array(b), rtol=0.1 if share == 1 else 1e-4)

    def test_classifier_with_a_worker_without_rows(self, client):
        xgboost_dask = pytest.importorskip("xgboost.dask")
        arrays, objective = problem(LOSSES[2], False), XGBoostObjective(LOSSES[2])
        chunked, scores = spread(client, arrays), []
        one_chunk = {name: client.persist(da.from_array(a, -1)) for name, a in arrays.items()}
        for train, valid in ((chunked, one_chunk), (one_chunk, chunked), (chunked, chunked)):
            model = xgboost_dask.DaskXGBClassifier(
                objective=objective.sklearn,
                eval_metric=objective.sklearn_metric,
                n_estimators=3,
                max_depth=3,
            )
            model.client = client
            pair = valid["data"], valid["label"]
            model.fit(train["data"], train["label"], eval_set=[pair], verbose=False)
            history = model.evals_result()["validation_0"][objective.name]
            assert np.all(np.diff(history) < 0)
            scores.append(model.predict(chunked["data"], output_margin=True).compute())
        for found in scores[:2]:
            assert_same_scores(found, scores[2])


# LightGBM -----------------------------------------------------------------------------------------


def settings_of_lightgbm(loss: Any) -> dict[str, Any]:
    """Return settings with which several workers and one machine grow the same trees.

    LightGBM's workers estimate from the Hessians how many samples a leaf has; one machine counts
    them. The models are equal if there is no minimum (min_child_samples).
    """
    settings = {"n_estimators": ROUNDS, "num_leaves": 7, "verbose": -1, "min_data_in_bin": 1}
    settings |= {"min_child_samples": 0, "min_child_weight": 1.0, "boost_from_average": False}
    return settings | ({"num_class": CLASSES} if number_of_classes(loss) > 1 else {})


def scores_on_dask(objective: Any, loss: Any, arrays: dict[str, Any], directory: Path) -> Any:
    """Train on two worker processes, and return the raw scores of the training data.

    LightGBM's workers lose each other in about one training of ten, even with its own objectives,
    and then raise or wait for ever: https://github.com/lightgbm-org/LightGBM/issues/4074.
    Hence each training has its own process, and is repeated if it fails.
    """
    pytest.importorskip("lightgbm")
    job, result = directory / "job.pickle", directory / "scores.npy"
    data = [arrays["data"], arrays["label"], arrays.get("weight")]
    job.write_bytes(pickle.dumps((objective, settings_of_lightgbm(loss), data, ROWS // CHUNKS)))
    command = (sys.executable, SUPPORT / "lightgbm_on_dask.py", job, result)
    for _ in range(6):
        with contextlib.suppress(subprocess.TimeoutExpired):
            finished = finish(*command, timeout=30)
            if finished.returncode == 0:
                return np.load(result)
            assert re.search(LOST, finished.stderr), finished.stderr
    pytest.fail("LightGBM's workers have lost each other six times")


LOST = r"LightGBMError.*(Socket|vector::_M_default_append|Connection)|CommClosedError"


class TestLightGBM:
    @pytest.mark.parametrize(
        ("loss", "is_weighted"), [(LOSSES[1], True), (LOSSES[2], False), (LOSSES[4], True)], ids=str
    )
    def test_equals_a_single_machine(self, loss, is_weighted, tmp_path):
        lightgbm = pytest.importorskip("lightgbm")
        arrays, objective = problem(loss, is_weighted), LightGBMObjective(loss)
        alone = lightgbm.LGBMClassifier(
            objective=objective.sklearn, n_jobs=1, **settings_of_lightgbm(loss)
        )
        alone.fit(arrays["data"], arrays["label"], sample_weight=arrays.get("weight"))
        expected = alone.predict(arrays["data"], raw_score=True)
        assert_same_scores(scores_on_dask(objective.sklearn, loss, arrays, tmp_path), expected)

    @pytest.mark.parametrize("loss", OF_LIGHTGBM, ids=str)
    def test_equals_its_own_objective(self, loss, tmp_path):
        arrays, objective = problem(loss, True), LightGBMObjective(loss)
        theirs = scores_on_dask(OF_LIGHTGBM[loss], loss, arrays, tmp_path)
        assert_same_scores(scores_on_dask(objective.sklearn, loss, arrays, tmp_path), theirs)
