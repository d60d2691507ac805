from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from cases import FUNCTIONS

from fastce import reference

passed_by_variant: Counter[str] = Counter()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests under each instruction set that this machine has.

    Tests that ask for `isa` run on the kernels alone, those that ask for `evaluate` on the
    reference too.
    """
    if not {"isa", "evaluate"} & set(metafunc.fixturenames):
        return
    from fastce._call import variants

    names = list(variants.available())
    if "evaluate" in metafunc.fixturenames:
        metafunc.parametrize("evaluate", ["reference", *names], indirect=True)
    else:
        metafunc.parametrize("isa", names, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.when == "call" and hasattr(item, "callspec"):
        given = item.callspec.params
        if variant := given.get("isa") or given.get("evaluate"):
            report.user_properties.append(("variant", variant))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count. If pytest-xdist runs tests in other processes, it hands their reports to this one."""
    if report.when == "call" and report.passed:
        passed_by_variant.update(x for name, x in report.user_properties if name == "variant")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests each variant passed: a build with fewer variants would look the same."""
    if passed_by_variant:
        terminalreporter.section("variants of the kernels")
    for variant, count in sorted(passed_by_variant.items()):
        terminalreporter.write_line(f"variant {variant}: {count} passed")


@pytest.fixture
def isa(request: pytest.FixtureRequest):
    """The kernels of one instruction set, for the duration of a test."""
    from fastce._call import variants

    with variants.using(request.param):
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
    from fastce._call import variants

    def evaluate(loss, logits, target, options=None, **call):
        return getattr(fastce, loss)(**(options or {})).value_grad_hess(logits, target, **call)

    with variants.using(request.param):
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
