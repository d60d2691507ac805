"""Measure one cell in this process: prepare every subject, time them in turn, find their errors.

Runs in a process that ``bench.threads.hold_to`` has held to its threads.
"""

from __future__ import annotations

import gc
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

from bench import subjects
from bench.accuracy import errors, extended_precision, true_answer
from bench.cells import Cell
from bench.problems import Kind, make_problem
from bench.timing import Budget, interleave, prepare

ERROR_ELEMENTS = 2**18
KINDS: tuple[Kind, ...] = ("normal", "confident")


class Measured(NamedTuple):
    """By the subject's name: seconds per call in each round, errors, or why it was left out."""

    seconds: dict[str, list[float]]
    errors: dict[str, dict[str, Any]]
    left_out: dict[str, str]


def measure(
    cell: Cell, threads: int, budget: Budget, names: Collection[str], weigh: bool
) -> Measured:
    """Times and, if ``weigh``, errors of the subjects of ``cell`` that are named.

    A subject that raises is left out, with the error as the reason; nothing replaces it.
    """
    subjects.load()
    taking_part = [s for s in subjects.subjects_of(cell) if s.name in names]
    problem = make_problem(cell, threads)
    runs, left_out = prepare({s.name: partial(s.prepare, problem) for s in taking_part})
    seconds = interleave(runs, budget)
    del runs, problem
    gc.collect()
    found: dict[str, dict[str, Any]] = {}
    if weigh and (cell.dtype != "float64" or extended_precision()):
        for kind in KINDS:
            problem = make_problem(cell.shrunk(ERROR_ELEMENTS), threads, "none", kind, seed=1)
            truth = true_answer(problem)
            for subject in taking_part:
                if subject.name in seconds and subject.name != subjects.LIMIT:
                    result = subject.prepare(problem)()
                    found.setdefault(subject.name, {})[kind] = errors(result, problem, truth)
    return Measured(seconds, found, left_out)
