from __future__ import annotations

import sys

import boosting
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seed_of_torch():
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(20240607)


@pytest.fixture(scope="session")
def several():
    """Features, labels and weights of CLASSES classes; enough rows for the hosts' blocks."""
    return boosting.samples(np.random.default_rng(1), boosting.CLASSES)


@pytest.fixture(scope="session")
def two():
    """The same, of two classes."""
    return boosting.samples(np.random.default_rng(2), 2)


@pytest.fixture(scope="session")
def catboost():
    return pytest.importorskip("catboost")


@pytest.fixture(scope="session")
def lightgbm():
    return pytest.importorskip("lightgbm")


@pytest.fixture(scope="session")
def xgboost():
    return pytest.importorskip("xgboost")


@pytest.fixture
def double():
    """Let JAX compute in float64."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
