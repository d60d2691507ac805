"""What the tests of the boosting objectives share: losses, batches, and steps of life cycles."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastce

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


def samples(rng, classes, rows=1500):
    labels = rng.choice(classes, rows, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    centres = rng.normal(size=(classes, 6))
    features = centres[labels] + rng.normal(size=(rows, 6))
    return features, labels, rng.uniform(0.25, 4, rows)


def scores_and_labels(rng, rows=200, size=4.0):
    return size * rng.normal(size=(rows, CLASSES)), rng.integers(CLASSES, size=rows)


# Life cycles --------------------------------------------------------------------------------------

CROSS_ENTROPY = fastce.SoftmaxCrossEntropy()
FOCAL = fastce.SoftmaxFocalLoss(gamma=1.0)
BINARY = fastce.BCEWithLogits()
ROUNDS = 8


def in_another_process(model, features, tmp_path, call):
    """Return what a call of the pickled and of the joblib-dumped model gives in a new process."""
    joblib = pytest.importorskip("joblib")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    joblib.dump(model, tmp_path / "model.joblib")
    np.save(tmp_path / "features.npy", features)
    code = f"""
import pickle, sys, joblib, numpy as np
from pathlib import Path
folder = Path(sys.argv[1])
x = np.load(folder / "features.npy")
models = pickle.loads((folder / "model.pickle").read_bytes()), joblib.load(folder / "model.joblib")
np.save(folder / "scores.npy", [model.{call} for model in models])
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], check=True)
    return np.load(tmp_path / "scores.npy")


def halves(samples):
    """Training and validation data."""
    features, labels, weight = samples
    return (features[::2], labels[::2], weight[::2]), (features[1::2], labels[1::2], weight[1::2])


def is_least(history, best):
    assert best == int(np.argmin(history))
    assert best < len(history) - 1  # it did stop early


def assert_predictions(model, scores, features, labels, rtol):
    """Classes, accuracy and probabilities are those of the raw scores."""
    is_binary = scores.ndim == 1
    best = scores > 0 if is_binary else scores.argmax(axis=1)
    p = 1 / (1 + np.exp(-scores)) if is_binary else fastce.softmax(scores)
    np.testing.assert_array_equal(model.predict(features).ravel(), best)
    assert model.score(features, labels) == pytest.approx((best == labels).mean())
    found = model.predict_proba(features)
    np.testing.assert_allclose(found[:, 1] if is_binary else found, p, rtol=rtol)


def search(model, objectives, samples, scoring=None, **grid):
    """A clone has the model's objective, and a grid search finds one of several that predicts."""
    base, selection = (pytest.importorskip(f"sklearn.{m}") for m in ("base", "model_selection"))
    features, labels, _ = samples
    assert base.clone(model).objective == model.objective
    grid["objective"] = objectives
    found = selection.GridSearchCV(model, grid, cv=3, scoring=scoring, error_score="raise")
    found.fit(features, labels)
    assert found.best_score_ > 0.5
    assert found.best_estimator_.objective in objectives
