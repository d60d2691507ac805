"""A row's result does not depend on the rows beside it, in the functions of rows."""

from __future__ import annotations

import numpy as np
import pytest

import fastce

INF, NAN = np.inf, np.nan
NAMES = ("softmax", "log_softmax", "logsumexp")


def edge_rows(classes, dtype, rng):
    """Rows (all kinds, classes) that take every way through the kernels, and a mask of each."""
    largest = float(np.finfo(dtype).max)
    ordinary = rng.normal(size=(8, classes)) * 3
    rows = [*ordinary, np.zeros(classes), np.full(classes, 1e3)]
    for kind in range(21):
        row = rng.normal(size=classes)
        some = rng.random(classes) < 0.3
        some[rng.integers(classes)] = True
        one = np.arange(classes) == rng.integers(classes)
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
                row *= 1000 * float(np.finfo(dtype).smallest_subnormal)
            case 18:
                row -= 95  # exponentials that are subnormal in float32
            case 19:
                row += 60
            case 20:
                row[some] -= 86
        rows.append(row)
    with np.errstate(over="ignore"):
        z = np.array(rows).astype(dtype)
    mask = rng.random(z.shape) < 0.8
    mask[::7] = False
    return z, mask


def bits(array):
    """The bits of numbers, but one NaN is as good as another."""
    array = np.ascontiguousarray(array)
    array = (
        np.where(np.isnan(array), array.dtype.type(NAN), array)
        if array.dtype.kind == "f"
        else array
    )
    return array.view(f"u{array.dtype.itemsize}")


def results_of_rows(z, mask, label):
    """Everything that the functions say of each row."""
    results = {
        f"{name}{' where' if where is not None else ''}": getattr(fastce, name)(z, where=where)
        for name in NAMES
        for where in (None, mask)
    }
    return results | fastce.token_log_probs(z, label)._asdict()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("classes", [1, 2, 3, 5, 10, 17, 64, 100, 193, 300])
def test_a_row_alone_is_the_row_among_others(classes, dtype, isa):
    """Bit for bit: every kind of row in every position of a block, with changing neighbours."""
    rng = np.random.default_rng(classes)
    z, mask = edge_rows(classes, dtype, rng)
    kinds = len(z)
    label = rng.integers(classes, size=kinds)
    single = [results_of_rows(z[[i]], mask[[i]], label[[i]]) for i in range(kinds)]
    alone = {name: bits(np.concatenate([row[name] for row in single])) for name in single[0]}
    # Each kind comes at each position once; then everything is left to chance.
    orders = [(np.arange(130) + shift) % kinds for shift in range(kinds)]
    orders += [rng.integers(kinds, size=rows) for rows in (2, 3, 63, 64, 65, 129, 130, 130)]
    wrong = set()
    for order in orders:
        for name, result in results_of_rows(z[order], mask[order], label[order]).items():
            differs = bits(result) != alone[name][order]
            rows = differs if differs.ndim == 1 else differs.any(axis=1)
            wrong |= {(name, int(kind)) for kind in order[rows]}
    assert not wrong, {(name, str(z[kind][:4])) for name, kind in wrong}
