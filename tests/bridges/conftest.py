from __future__ import annotations

import sys

import boosting
import numpy as np
import pytest
from batches import confident, on_grid


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
    """The same, for two classes."""
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
def problem(rng):
    """Logits of a small vocabulary, some of them confident, and labels; chunks over both axes."""
    import dask.array as da

    z = on_grid(rng, (60, 500)).astype(np.float32)
    z[:20] = confident(rng, (20, 500))
    y = np.where(rng.random(60) < 0.5, np.argmax(z, axis=1), rng.integers(500, size=60))
    return da.from_array(z, chunks=(17, 90)), da.from_array(y, chunks=25)


@pytest.fixture
def double():
    """Let JAX compute in float64."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
