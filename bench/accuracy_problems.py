"""Logits that distinguish accurate losses from others, for the accuracy table and its tests.

There are five kinds, typical and adversarial. For the softmax losses each kind comes twice: as
drawn, and rounded to multiples of 1/32. In the second form every difference of logits is exact, so
the whole error is the loss's own. In the first, every method that stays in the working precision
rounds the difference z_j − max z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.problems import Problem, floating_dtype, working_dtype

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

KINDS = ("normal", "confident", "zipf", "cauchy", "adversarial")
GRID = 32
LARGEST = 2.0**17  # beyond it float32 has no multiples of 1/32 whose differences are exact


@dataclass(frozen=True)
class Group:
    """Some rows (elements, for the sigmoid losses) of a problem."""

    kind: str
    exact: bool  # whether the logits' differences are exact
    rows: slice


def make(cell: Cell, elements: int, seed: int = 0) -> tuple[Problem, list[Group]]:
    """One problem with all kinds of logits, about ``elements`` of each, and its groups of rows."""
    rng = np.random.default_rng(seed)
    sigmoid = cell.target == "binary"
    logits, targets, groups, start = [], [], [], 0
    for exact in (False,) if sigmoid else (True, False):
        for kind in KINDS:
            if sigmoid:
                z, target = _elements(kind, elements, rng)
            else:
                least = len(_PATTERNS) if kind == "adversarial" else 2
                z, target = _rows(kind, max(elements // cell.classes, least), cell.classes, rng)
                if exact:
                    z = np.round(z * GRID) / GRID
            logits.append(z)
            targets.append(target)
            groups.append(Group(kind, exact, slice(start, start + len(z))))
            start += len(z)
    z, target = np.concatenate(logits), np.concatenate(targets)
    working = working_dtype(cell.dtype)
    if sigmoid:
        target = target.astype(working)
    if cell.target == "probabilities" or cell.label_smoothing:
        z = np.where(np.isinf(z), -300, z)  # the loss of a masked class with a share is infinite
    if cell.target == "probabilities":
        target = rng.standard_exponential(z.shape)
        target = (target / target.sum(axis=-1, keepdims=True)).astype(working)
    if cell.dtype == "float16":  # finite logits stay finite
        z = np.where(np.isinf(z), z, z.clip(-60_000, 60_000))
    z = z.astype(working).astype(floating_dtype(cell.dtype))
    return Problem(replace(cell, shape=z.shape), z, target, "none", 1), groups


def part(problem: Problem, rows: slice) -> Problem:
    """The problem of some of the rows."""
    z, target = problem.logits[rows], problem.target[rows]
    return replace(problem, cell=replace(problem.cell, shape=z.shape), logits=z, target=target)


# Rows of the softmax losses ---------------------------------------------------------------------


def _rows(kind: str, rows: int, classes: int, rng: Rng) -> tuple[Array, Array]:
    label = rng.integers(0, classes, rows)
    if kind == "adversarial":
        z = np.empty((rows, classes))
        for row in range(rows):
            z[row], chosen = _PATTERNS[row % len(_PATTERNS)](classes, rng)
            if chosen is None:
                chosen = rng.choice(np.flatnonzero(z[row] > -1e8))
            label[row] = chosen
        return z, label
    if kind == "zipf":  # log-frequencies of a vocabulary, in any order, and a label drawn from them
        ranks = 1 + rng.permuted(np.tile(np.arange(classes), (rows, 1)), axis=1)
        z = -rng.uniform(1, 1.5, (rows, 1)) * np.log(ranks)
        return z, np.argmax(z + rng.gumbel(size=z.shape), axis=1)
    if kind == "cauchy":
        return np.clip(3 * rng.standard_cauchy((rows, classes)), -LARGEST, LARGEST), label
    z = rng.standard_normal((rows, classes))
    if kind == "normal":
        return 3 * z, label
    z[np.arange(rows), label] = z.max(axis=1) + rng.uniform(10, 60, rows)
    return z, label


Row = tuple[Array, int | None]  # None: the label is any class that is not masked


def _ties(classes: int, rng: Rng) -> Row:
    """Half of the classes share the maximum."""
    return rng.uniform(-100, 0, classes) * rng.integers(0, 2, classes), None


def _all_equal(classes: int, rng: Rng) -> Row:
    return np.full(classes, 1000.0), None


def _at_the_end_of_the_range(classes: int, rng: Rng) -> Row:
    """The right class, and tails that are subnormal numbers of float32 or close to it."""
    z = rng.uniform(-104, -84, classes)
    z[0] = 0
    return z, 0


def _lost_one_by_one(classes: int, rng: Rng) -> Row:
    """Tails that are each lost when added to 1 in float32, but not together."""
    z = np.full(classes, -18.0)
    z[-1] = 0
    return z, classes - 1


def _masked(by: float, classes: int, rng: Rng) -> Row:
    z = np.where(rng.integers(0, 2, classes), by, 3 * rng.standard_normal(classes))
    z[0] = 1
    return z, None


def _far_from_zero(classes: int, rng: Rng) -> Row:
    return 2.0**14 + 3 * rng.standard_normal(classes), None


def _hopeless(classes: int, rng: Rng) -> Row:
    """A wrong class leads the target by 80."""
    z = rng.standard_normal(classes)
    z[0], z[-1] = 80, 0
    return z, classes - 1


def _nearly_tied(classes: int, rng: Rng) -> Row:
    z = np.full(classes, -40.0)
    z[0], z[-1] = 1, 1 - 2.0**-20
    return z, 0


_PATTERNS: tuple[Callable[[int, Rng], Row], ...] = (
    _ties,
    _all_equal,
    _at_the_end_of_the_range,
    _lost_one_by_one,
    partial(_masked, -np.inf),
    partial(_masked, -1e9),
    _far_from_zero,
    _hopeless,
    _nearly_tied,
)


# Elements of the sigmoid losses -------------------------------------------------------------------


def _elements(kind: str, count: int, rng: Rng) -> tuple[Array, Array]:
    target = rng.integers(0, 2, count)
    if kind == "normal":
        return 3 * rng.standard_normal(count), target
    if kind == "confident":
        return (2 * target - 1) * rng.uniform(10, 60, count), target
    if kind == "zipf":  # log-odds of tags, of which few are frequent
        return -1.2 * np.log(rng.integers(1, 100_000, count)), target
    if kind == "cauchy":
        return np.clip(3 * rng.standard_cauchy(count), -LARGEST, LARGEST), target
    sign = rng.choice([-1.0, 1.0], count)
    size = np.choose(
        rng.integers(0, 5, count),
        [
            np.zeros(count),
            10.0 ** rng.uniform(-30, 0, count),
            rng.uniform(84, 90, count),  # where e^-|z| leaves float32's normal numbers
            rng.uniform(0, 110, count),
            10.0 ** rng.uniform(0, 5, count),
        ],
    )
    return sign * size, target
