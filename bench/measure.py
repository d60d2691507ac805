"""Measure one cell in this process: prepare every subject, time them in turn, weigh their errors.

Runs in a process that ``bench.threads.hold_to`` has held to its threads.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import partial
from typing import Any

from bench import subjects
from bench.accuracy import errors
from bench.cells import Cell
from bench.problems import Kind, make_problem
from bench.subjects import Subject
from bench.timing import Budget, interleave, prepare
from bench.truth import extended_precision, true_answer

ERROR_ELEMENTS = 2**18
KINDS: tuple[Kind, ...] = ("normal", "confident")


def measure(
    cell: Cell, threads: int, budget: Budget, names: Iterable[str] = ("*",), weigh: bool = True
) -> dict[str, Any]:
    """Times and, if ``weigh``, errors of the subjects of ``cell`` whose names match.

    What a subject raises is its reason for being left out; nothing is put in its place.
    """
    subjects.load()
    taking_part = [s for s in subjects.subjects_of(cell) if _matches(s.name, names)]
    problem = make_problem(cell, threads)
    runs, left_out = prepare({s.name: partial(s.prepare, problem) for s in taking_part})
    times = {}
    for name, samples in interleave(runs, budget).items():
        times[name] = {
            "minimum": min(samples),
            "median": statistics.median(samples),
            "rounds": len(samples),
        }
    del runs, problem
    gc.collect()
    found = _weigh([s for s in taking_part if s.name in times], cell, threads) if weigh else {}
    return {
        "cell": cell.group,
        "threads": threads,
        "elements": cell.elements,
        "seconds": times,
        "errors": found,
        "left_out": left_out,
    }


def _weigh(taking_part: list[Subject], cell: Cell, threads: int) -> dict[str, Any]:
    """Errors per sample, on fewer samples of the cell, for both kinds of logits."""
    found: dict[str, Any] = {}
    if cell.dtype == "float64" and not extended_precision():
        return found
    for kind in KINDS:
        problem = make_problem(cell.shrunk(ERROR_ELEMENTS), threads, "none", kind, seed=1)
        truth = true_answer(problem)
        for subject in taking_part:
            if subject.name == subjects.LIMIT:
                continue
            result = subject.prepare(problem)()
            found.setdefault(subject.name, {})[kind] = errors(result, problem, truth)
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def missing_packages() -> dict[str, str]:
    """Peers that this environment does not have, and why."""
    return subjects.load()
