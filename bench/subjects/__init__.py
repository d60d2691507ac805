"""What is timed. Each module has one peer's versions, as its users write them.

A module whose package is not installed is left out entirely, and the report says so. A subject that
cannot do a cell (an attribute, option or dtype is missing) is left out of that cell, and the
report says so too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from bench.cells import Cell
from bench.problems import Problem
from bench.timing import Run

Prepare = Callable[[Problem], Run]

MODULES = (
    "limit",
    "with_fastce",
    "with_numpy",
    "with_scipy",
    "with_sklearn",
    "with_numba",
    "with_torch",
    "with_jax",
)
LIMIT = "limit"
OURS = ("fastce", "fastce, new array")


@dataclass(frozen=True)
class Subject:
    """``prepare(problem)`` does all that a user does once; what it returns is timed.

    The timed call returns ``(loss, gradient)``, the loss alone, or the arrays asked for, in the
    peer's own types.
    """

    name: str
    operation: str
    prepare: Prepare
    suits: Callable[[Cell], bool]


_subjects: list[Subject] = []


def subject(
    name: str, *operations: str, suits: Callable[[Cell], bool] = lambda cell: True
) -> Callable[[Prepare], Prepare]:
    """Register a ``prepare`` function for the operations named."""

    def register(prepare: Prepare) -> Prepare:
        _subjects.extend(Subject(name, operation, prepare, suits) for operation in operations)
        return prepare

    return register


def load() -> dict[str, str]:
    """Import every peer; return what is missing, and why."""
    missing = {}
    for module in MODULES:
        try:
            importlib.import_module(f"bench.subjects.{module}")
        except ImportError as error:
            missing[module.removeprefix("with_")] = str(error)
    return missing


def subjects_of(cell: Cell) -> list[Subject]:
    """The subjects that take part in ``cell``, in the order of ``MODULES``."""
    return [s for s in _subjects if s.operation == cell.operation and s.suits(cell)]


def labels_in_rows(cell: Cell) -> bool:
    """float32 or float64 rows with class labels: what the simplest peers can do."""
    return (
        cell.dtype in ("float32", "float64")
        and cell.target == "labels"
        and cell.axis == -1
        and not cell.label_smoothing
    )


def not_16_bit(cell: Cell) -> bool:
    return cell.dtype in ("float32", "float64")
