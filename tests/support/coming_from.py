"""The tables of the page "Coming from another library", and the checks of their rows."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.testing import assert_allclose

import fastce

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"
BOOSTING = "XGBoost, LightGBM and CatBoost"
HOSTS = {
    "torch": ["torch"],
    "torchvision": ["torch", "torchvision"],
    "Keras": ["keras"],
    "TensorFlow": ["tensorflow"],
    "optax": ["optax"],
    "scikit-learn": ["sklearn", "scipy"],
    BOOSTING: ["xgboost", "lightgbm", "catboost"],
}
# Keras chooses its backend when it is imported, and writes the choice to a file.
os.environ.setdefault("KERAS_BACKEND", "numpy")
os.environ.setdefault("KERAS_HOME", tempfile.gettempdir())

# Too large to be installed for a test; the page says when their rows were checked.
NOT_INSTALLED = {"TensorFlow", "torchvision"}

rng = np.random.default_rng(5)
Z = rng.normal(0, 2, (6, 4)).astype(np.float32)
Y = np.array([0, 3, 1, 1, 2, 0])
Q = rng.dirichlet(np.ones(4), 6).astype(np.float32)
T = (rng.random(Z.shape) < 0.4).astype(np.float32)
W = np.array([0.5, 2.0, 1.0, 3.0], np.float32)  # of classes
S = np.array([1.0, 3.0, 0.5, 2.0, 0.0, 1.0], np.float32)  # of samples
ONE_HOT = np.eye(4, dtype=np.float32)[Y]
P = fastce.softmax(Z)
LOG_P = fastce.log_softmax(Z)
CE = fastce.SoftmaxCrossEntropy()
EACH = fastce.SoftmaxCrossEntropy(reduction="none")


def tables():
    """Return (host, first cell) of each row, in the order of the page."""
    found, host, in_table = [], None, False
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            host = line[3:]
        elif not line.startswith("|"):
            in_table = False
        elif line.startswith("|---"):
            in_table = True
        elif in_table:
            found.append((host, line.split("|")[1].strip()))
    return found


class Checks(dict):
    """The checks of some hosts' rows."""

    def row(self, host, theirs):
        """Register the check of one row, by the text of its first cell."""

        def register(check):
            assert (host, theirs) not in self
            self[host, theirs] = check
            return check

        return register

    def assert_complete(self, *hosts):
        rows = [row for row in tables() if row[0] in hosts]
        assert {host for host, _ in rows} == set(hosts)
        assert set(rows) == set(self)

    def of_installed(self):
        """The rows to test: one that no environment of ours can run would be a skipped test."""
        return [
            (host, theirs)
            for host, theirs in self
            if host not in NOT_INSTALLED or all(map(importlib.util.find_spec, HOSTS[host]))
        ]


def same(theirs, ours, rtol=2e-6):
    assert_allclose(np.asarray(theirs), ours, rtol=rtol, atol=1e-7)
