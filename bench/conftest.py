"""``pytest bench``: pytest-benchmark, given the times of subjects that take turns.

Each number of threads has a worker process of its own, which is held to that many processors before
it imports anything. The first test of a cell has the worker time all the subjects of the cell that
were selected; each subject's test hands pytest-benchmark its own times.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import pytest

from bench import machine, subjects
from bench.cells import Cell
from bench.measure import Measured, measure
from bench.threads import available_cpus, hold_to
from bench.timing import FULL, QUICK, SWEEP, Budget

DRY_RUN = Budget(0, 1)  # with --benchmark-disable
LEFT_OUT = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--threads",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[1, 2],
        help="threads of every subject in bench/, each number in turn (default 1,2)",
    )
    parser.addoption("--quick", action="store_true", help="fewer rounds in bench/, and no sweeps")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    processors = len(available_cpus())
    config.option.threads = [n for n in config.option.threads if n <= processors] or [1]
    config.stash[LEFT_OUT] = []
    # The package's own tests make every warning an error; the peers' warnings are not ours.
    config.addinivalue_line("filterwarnings", "default")


class Replay:
    """A clock that shows times measured elsewhere: each call takes the next of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.samples: Iterator[float] = iter(())

    def clock(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += next(self.samples, 0.0)


REPLAY = Replay()


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Iterator[Callable[..., Measured]]:
    """``measured(cell, threads, sweep)``: times of its selected subjects, measured once."""
    config = request.config
    workers: dict[int, ProcessPoolExecutor] = {}
    selected: dict[Any, list[str]] = {}
    for item in request.session.items:
        given = getattr(getattr(item, "callspec", None), "params", {})
        if "subject" in given:
            place = given["cell"], given["threads"], given["sweep"]
            selected.setdefault(place, []).append(given["subject"])

    @cache
    def measured(cell: Cell, threads: int, sweep: str | None) -> Measured:
        if threads not in workers:
            workers[threads] = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=hold_to,
                initargs=(threads,),
            )
        budget = QUICK if config.option.quick else SWEEP if sweep else FULL
        if config.getoption("benchmark_disable", False):
            budget = DRY_RUN
        # Errors do not depend on the number of threads: they are measured once.
        weigh = not sweep and threads == config.option.threads[0]
        names = selected[cell, threads, sweep]
        return workers[threads].submit(measure, cell, threads, budget, names, weigh).result()

    yield measured
    for worker in workers.values():
        worker.shutdown()


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info["bench"] = machine.facts(config.option.threads)


def pytest_benchmark_update_json(config: Any, output_json: dict[str, Any]) -> None:
    """Add the subjects left out: a comparison with few peers must not pass for a full one."""
    output_json["left_out"] = config.stash[LEFT_OUT]
    output_json["missing"] = subjects.load()
