"""A row's result does not depend on the other rows, bit for bit, in any loss or function.

Every kind of row is put in every position of a block, in every plan, type, loss, option and result.
The combinations that have run are recorded, and a test demands that none is missing.
"""

from __future__ import annotations

import itertools
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from cases import DTYPES
from edge_rows import edge_elements, edge_rows, odd_orders
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st
from rows_alone import (
    LAYOUTS,
    MOST_ELEMENTS,
    NAMES,
    SIGMOID_WAYS,
    check_way,
    every_combination,
    softmax_ways,
    sweep,
    sweep_of_elements,
)
from sizes import class_counts

import fastce
from fastce._call import variants

# How rows with strided classes are packed does not depend on the type.
SWEEPS = [
    (dtype, layout)
    for dtype, layout in itertools.product(DTYPES, LAYOUTS)
    if layout != "spread" or dtype == "float32"
]


@pytest.mark.parametrize(("dtype", "layout"), SWEEPS)
def test_a_row_alone_is_the_row_in_a_batch(dtype, layout, isa):
    assert sweep(isa, dtype, layout)


@pytest.mark.parametrize("layout", ["rows", "gathered"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_element_alone_is_the_element_in_a_batch(dtype, layout, isa):
    assert sweep_of_elements(isa, dtype, layout)


def test_every_combination_that_exists_is_executed(isa):
    """By the two tests above, in this process; they are run here if they were not selected."""
    executed = Counter()
    for dtype, layout in SWEEPS:
        executed += sweep(isa, dtype, layout)
    for dtype, layout in itertools.product(DTYPES, ("rows", "gathered")):
        executed += sweep_of_elements(isa, dtype, layout)
    wanted = set(every_combination())
    print(f"{len(wanted)} combinations, {sum(executed.values())} batches")
    missing = sorted(wanted - set(executed))
    assert not missing, f"{len(missing)} of {len(wanted)} were never executed: {missing}"
    assert set(executed) <= wanted


@FUZZ
@given(data=st.data())
def test_random_rows_alone(data):
    """More class counts, and orders in which few kinds of rows follow each other."""
    draw = data.draw
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.integers(0, 3)) == 0:
        layout, classes = draw(st.sampled_from(["rows", "gathered"])), 1
        rows, way = edge_elements(dtype, rng), draw(st.sampled_from(SIGMOID_WAYS))
    else:
        layout = draw(st.sampled_from(LAYOUTS))
        some = st.sampled_from(class_counts(layout, dtype))
        classes = draw(st.one_of(st.integers(1, 70), some))
        rows, ways = edge_rows(classes, dtype, rng), softmax_ways(classes)
        way = ways[draw(st.integers(0, len(ways) - 1))]
    kinds, longest = len(rows.logits), draw(st.integers(3, 300))
    longest = min(longest, max(MOST_ELEMENTS // 8 // classes, 3))
    orders = list(odd_orders(kinds, rng.integers(kinds, size=3), rng, longest))
    with variants.using(draw(st.sampled_from(variants.available()))):
        check_way(way, rows, orders, dtype, layout, Counter())


@pytest.mark.parametrize("classes", [2, 7, 17, 100])
def test_the_argmax_of_a_row_with_nan_is_the_largest_of_its_numbers(classes, isa):
    """Reading many rows at once kept NaN in some lanes: the result depended on the other rows."""
    z = np.random.default_rng(classes).normal(size=(67, classes))
    z[:, classes // 2] = np.nan
    for dtype in (np.float32, np.float64):
        rows = z.astype(dtype)
        for layout, axis in ((rows, -1), (np.ascontiguousarray(rows.T), 0)):
            found = fastce.token_log_probs(layout, np.zeros(67, int), axis=axis)
            assert np.isnan(found.lse).all()
            np.testing.assert_array_equal(found.argmax, np.nanargmax(rows, axis=1))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", ">f4"])
@pytest.mark.parametrize("classes", [1, 3, 100, 300])
def test_no_floating_point_error_is_signalled(classes, dtype, isa):
    """Not even with classes along several axes, or backwards; the tests above cover the rest."""
    rng = np.random.default_rng(classes)
    rows = edge_rows(classes, "float32" if dtype in ("bfloat16", ">f4") else dtype, rng)
    z = rows.logits.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    with np.errstate(all="raise"):
        for name, where in itertools.product(NAMES, (None, rows.where)):
            function = getattr(fastce, name)
            function(z, axis=None, where=where)
            where = None if where is None else where[:, ::-2]
            function(z[:, ::-2], axis=(1, 0), where=where)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("classes", [1, 2, 3, 5, 10, 17, 64, 100, 193, 300])
def test_lse_of_tokens_is_logsumexp_of_edge_rows_too(classes, dtype, isa):
    rng = np.random.default_rng(classes)
    z = edge_rows(classes, dtype, rng).logits
    lse = fastce.token_log_probs(z, rng.integers(classes, size=len(z))).lse
    expected = fastce.logsumexp(z)
    infinite = ~np.isfinite(expected)
    assert np.isposinf(expected).any()
    assert np.isneginf(expected).any()
    np.testing.assert_array_equal(lse[infinite], expected[infinite])
    np.testing.assert_allclose(lse, expected, rtol=1e-6)
