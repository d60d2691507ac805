"""Rows and elements that are edge cases for the kernels, one of each kind, and orders of them."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np
from cases import DTYPES

INF, NAN = np.inf, np.nan
IGNORED = -100
ORDINARY = 28  # kinds of rows from here on have nothing odd
ORDINARY_ELEMENTS = 20  # and the first kinds of elements have nothing odd


class Rows(NamedTuple):
    """One row of each kind: logits, and what a loss may be given with them."""

    logits: np.ndarray
    label: np.ndarray
    probabilities: np.ndarray
    teacher: np.ndarray
    where: np.ndarray
    sample_weight: np.ndarray
    grad_output: np.ndarray


def finite_range(dtype):
    """Return the largest and the smallest positive number of a type, as float."""
    info = ml_dtypes.finfo(DTYPES[dtype])
    return float(info.max), float(info.smallest_subnormal)


def edge_rows(classes: int, dtype: str, rng: np.random.Generator) -> Rows:
    """Rows that take every path through the kernels; the number of kinds is odd."""
    largest, smallest = finite_range(dtype)
    one_of = rng.integers(classes, size=64)
    rows, label = [], one_of[:35].copy()
    for kind in range(35):
        row = rng.normal(size=classes) * 3
        some = rng.random(classes) < 0.3
        some[rng.integers(classes)] = True
        one = np.arange(classes) == one_of[kind]
        match kind:
            case 0 | 1:
                row[one] = INF
            case 2:
                row[some] = INF
            case 3:
                row[:] = INF
            case 4 | 5:
                row[one] = NAN
            case 6:
                row[some] = -INF
            case 7:
                row[~one] = -INF
            case 8:
                row[:] = -INF
            case 9:
                row[some], row[one] = INF, NAN
            case 10:
                row[some], row[one] = -INF, INF
            case 11:
                row = np.where(some, 2.5, -9.0)  # ties
            case 12 | 13:
                row[one] = 1e3  # confident
            case 14:
                row[one] = -1e3
            case 15:
                row *= min(1e30, largest / 8)
            case 16:
                row[one] = largest
            case 17:
                row *= 1000 * smallest
            case 18:
                row -= 95  # exponentials that are subnormal in float32
            case 19:
                row += 60
            case 20:
                row[some] -= 86
            case 21:
                row[:] = 0
            case 22:
                row[one] += 16  # has nearly all of the probability
            case 23:
                label[kind] = IGNORED
            case 24:
                row[one], label[kind] = NAN, IGNORED
            case 25:
                row[:], label[kind] = INF, IGNORED
            case 26:
                row[one] = NAN  # has weight 0, as has kind 27
        if kind in (1, 5, 13):  # the label is another class than the odd one
            label[kind] = (one_of[kind] + 1) % classes
        rows.append(row)
    with np.errstate(over="ignore"):
        logits = np.array(rows).astype(DTYPES[dtype])
    shape = logits.shape
    probabilities = rng.dirichlet(np.ones(classes), len(rows))
    probabilities[::5] *= rng.random((len(probabilities[::5]), classes)) < 0.5
    probabilities[3] = 0
    teacher = (rng.normal(size=shape) * 3).astype(logits.dtype)
    teacher[::2] = logits[rng.permutation(len(rows))][::2]
    where = rng.random(shape) < 0.8
    where[::7] = False
    weight = rng.choice([0.5, 1.0, 2.0, -2.0], size=len(rows))
    weight[26:28] = 0
    return Rows(
        logits,
        label,
        probabilities.astype(np.float64 if dtype == "float64" else np.float32),
        teacher,
        where,
        weight.astype(np.float32 if classes % 2 else np.float64),
        rng.normal(size=len(rows)),
    )


class Elements(NamedTuple):
    """One element of each kind, for losses of independent elements."""

    logits: np.ndarray
    target: np.ndarray
    where: np.ndarray
    sample_weight: np.ndarray
    grad_output: np.ndarray


def take(rows, kinds):
    """Rows or elements of these kinds."""
    return type(rows)(*(array[kinds] for array in rows))


def edge_elements(dtype: str, rng: np.random.Generator) -> Elements:
    """Elements of an odd number of kinds; the first are ordinary in every respect."""
    largest, smallest = finite_range(dtype)
    edges = [0.0, -0.0, INF, NAN, largest, smallest, 1000 * smallest, 1e-20, 0.5, 16.0, 40.0]
    edges += [86.9, 87.4, 88.8, 103.9, 104.1, 345.0, 708.0, 746.0, 1e3]
    logits = [*rng.normal(size=ORDINARY_ELEMENTS) * 3]
    target = [*rng.integers(2, size=ORDINARY_ELEMENTS).astype(float)]
    for edge in edges:
        for sign in (1, -1):
            for y in (0.0, 1.0, 0.3):
                logits.append(sign * edge)
                target.append(y)
    logits.append(2.0)
    target.append(1.0)
    count = len(logits)
    with np.errstate(over="ignore"):
        z = np.array(logits).astype(DTYPES[dtype])
    where, weight = rng.random(count) < 0.9, rng.choice([1.0, 0.5, 0.0, -2.0], size=count)
    where[:ORDINARY_ELEMENTS], weight[:ORDINARY_ELEMENTS] = True, 1.0
    y = np.array(target).astype(np.float64 if dtype == "float64" else np.float32)
    return Elements(z, y, where, weight.astype(y.dtype), rng.normal(size=count).astype(y.dtype))


def every_position(kinds: int, period: int) -> np.ndarray:
    """Return kinds of rows so that each is at each position of a block of `period` rows.

    The number of kinds is odd and the period a power of two: row r is kind r % kinds, at position
    r % period.
    """
    assert kinds % 2 == 1
    assert period & (period - 1) == 0
    return np.arange(kinds * period) % kinds


def odd_orders(kinds: int, ordinary: np.ndarray, rng: np.random.Generator, longest: int):
    """Yield orders of few kinds, so that most rows of a run are alike, and one with one odd row."""
    for rows in (3, longest):
        yield rng.choice(rng.integers(kinds, size=rng.integers(1, 4)), size=rows)
    lone = rng.choice(ordinary, size=longest)
    lone[rng.integers(longest)] = rng.integers(kinds)
    yield lone
