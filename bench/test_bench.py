"""The cells under pytest-benchmark, for its comparisons, histograms and saved runs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from bench import subjects
from bench.cells import CELLS, Cell
from bench.problems import Problem, make_problem

MISSING = subjects.load()

CASES = [
    pytest.param(cell, subject, id=f"{cell.group}-{subject.name.replace(', ', '-')}")
    for cell in CELLS
    for subject in subjects.subjects_of(cell)
]


@lru_cache(maxsize=1)
def problem_of(cell: Cell, threads: int) -> Problem:
    return make_problem(cell, threads)


@pytest.mark.parametrize(("cell", "subject"), CASES)
def test_speed(benchmark: Any, cell: Cell, subject: subjects.Subject, threads: int) -> None:
    benchmark.group = f"{cell.group}-threads={threads}"
    benchmark.extra_info.update(elements=cell.elements, threads=threads, subject=subject.name)
    try:
        run = subject.prepare(problem_of(cell, threads))
        run()
    except Exception as error:
        if subject.name in subjects.OURS:
            raise
        pytest.skip(f"{subject.name}: {error}")
    benchmark(run)
    if benchmark.enabled and benchmark.stats is not None:
        nanoseconds = benchmark.stats["min"] / cell.elements * 1e9
        benchmark.extra_info["nanoseconds_per_element"] = nanoseconds


@pytest.mark.parametrize("peer", sorted(MISSING))
def test_missing_peer(peer: str) -> None:
    """Shown as skipped, so that a comparison with few peers does not pass for a full one."""
    pytest.skip(MISSING[peer])
