from __future__ import annotations

import numpy as np
import pytest
from cases import FUNCTIONS

from fastce import reference


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests under each instruction set that this machine has.

    Tests that ask for `isa` run on the kernels alone, those that ask for `evaluate` on the
    reference too.
    """
    if not {"isa", "evaluate"} & set(metafunc.fixturenames):
        return
    from fastce import _isa

    variants = list(_isa.available())
    if "evaluate" in metafunc.fixturenames:
        metafunc.parametrize("evaluate", ["reference", *variants], indirect=True)
    else:
        metafunc.parametrize("isa", variants, indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest):
    """The kernels of one instruction set, for the duration of a test."""
    from fastce import _isa

    with _isa.using(request.param):
        yield request.param


@pytest.fixture
def evaluate(request: pytest.FixtureRequest):
    """`evaluate(loss, logits, target, options, **call)` gives (loss, grad, hess)."""
    if request.param == "reference":

        def evaluate(loss, logits, target, options=None, **call):
            return getattr(reference, FUNCTIONS[loss])(logits, target, **(options or {}), **call)

        yield evaluate
        return

    import fastce
    from fastce import _isa

    def evaluate(loss, logits, target, options=None, **call):
        return getattr(fastce, loss)(**(options or {})).value_grad_hess(logits, target, **call)

    with _isa.using(request.param):
        yield evaluate


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture
def threads():
    """`set_num_threads`, undone at the end of the test."""
    import fastce

    before = fastce.get_num_threads()
    yield fastce.set_num_threads
    fastce.set_num_threads(before)
