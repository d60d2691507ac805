"""Random batches of every loss: each result is that of the reference.

Shapes, strides, types, options, labels and hostile values are drawn together, as no list of cases
has them. The search is the same in every run; `make fuzz` goes on from there.
"""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from batches import (
    class_mask,
    confident,
    element_mask,
    element_weight,
    equal,
    far_apart,
    off_grid,
    on_grid,
    per_element,
    per_row,
    row_weight,
    weight_per_row,
)
from bounds import assert_within, tolerances, working
from cases import CASES, DTYPES, INTEGERS, SIGMOID, SOFTMAX, Batch, Case
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st
from layouts import LAYOUTS, zero_strides
from sizes import CHUNK, class_counts

from fastce._call import variants

SLACK = 4  # the bounds are for the options of the list of cases; a wrong result is far beyond them
MOST_ELEMENTS = 12_000
MARK = 77

# Each switch between kernels, in any precision, and its neighbours.
SWITCHES = sorted(
    {
        classes + more
        for layout, dtype in itertools.product(("rows", "planes"), ("float32", "float64"))
        for classes in class_counts(layout, dtype)
        for more in (-1, 0, 1)
        if 0 < classes + more <= MOST_ELEMENTS
    }
)
CLASSES = st.one_of(st.integers(1, 40), st.sampled_from(SWITCHES))
SEEDS = st.integers(0, 2**32 - 1)
LOGITS = (on_grid, on_grid, off_grid, confident, far_apart, equal)
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
LAYOUT = st.sampled_from([None, None, "zero_strides", *LAYOUTS])
SOFT_TARGETS = [c.target for c in CASES if c.loss == "SoftmaxCrossEntropy" and "prob" in c.name]
SIGMOID_TARGETS = [c.target for c in CASES if c.loss in SIGMOID]


def hostile_values(dtype):
    """Numbers that something may go wrong with, in the type of the logits."""
    largest = {"float16": 6e4, "bfloat16": 1e36, "float32": 1e36, "float64": 1e300}[dtype]
    return [np.inf, -np.inf, np.nan, largest, -largest, 88.5, -104.0, 1e-40, 5e-324, 0.0, -0.0]


@st.composite
def shapes(draw, classes):
    """A shape with `classes` on one of its axes, and that axis."""
    room = MOST_ELEMENTS // classes
    sizes = []
    for _ in range(draw(st.integers(0, 3))):
        sizes.append(draw(st.one_of(st.integers(0, 6), st.integers(0, 70))))
        if math.prod(sizes) > room:
            sizes[-1] = 1
    axis = draw(st.integers(0, len(sizes)))
    sizes.insert(axis, classes)
    return tuple(sizes), axis - draw(st.sampled_from([0, len(sizes)]))


def made_logits(draw, rng, shape, dtype, hostile):
    make = draw(st.sampled_from(LOGITS))
    logits = make(rng, shape) if shape and 0 not in shape else np.ones(shape)
    if hostile and logits.size:
        some = rng.random(shape) < draw(st.sampled_from([0.01, 0.2]))
        one = st.sampled_from(hostile_values(dtype))
        values = draw(st.lists(one, min_size=1, max_size=3))
        logits = np.where(some, rng.choice(np.array(values), size=shape), logits)
    with np.errstate(over="ignore", under="ignore"):
        return logits.astype(DTYPES[dtype])


def laid_out(draw, a):
    layout = draw(LAYOUT)
    if layout is None or a.ndim < 2 or a.size == 0:
        return a
    return zero_strides(a) if layout == "zero_strides" else LAYOUTS[layout](a)


@st.composite
def softmax_batches(draw):
    loss = draw(st.sampled_from(SOFTMAX))
    classes = draw(CLASSES)
    shape, axis = draw(shapes(classes))
    rng = np.random.default_rng(draw(SEEDS))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    rows = tuple(np.delete(shape, axis))
    options = {"axis": axis, "reduction": draw(REDUCTIONS)}

    def maybe(name, *values):
        if draw(st.integers(0, 3)) == 0:
            options[name] = values[draw(st.integers(0, len(values) - 1))]

    class_weight = rng.integers(5, size=classes) / 2
    maybe("ignore_index", 0, classes - 1, 2**62)
    if loss == "SoftmaxCrossEntropy":
        maybe("weight", class_weight)
        maybe("label_smoothing", 0.1, 1.0)
        maybe("z_loss", 1e-2)
        maybe("logit_scale", 0.3, 2.0)
        maybe("softcap", 5.0, 30.0)
    else:
        maybe("gamma", 0.0, 0.3, 0.5, 1.0, 3.7)
        maybe("alpha", class_weight)

    logits = laid_out(draw, made_logits(draw, rng, shape, dtype, draw(st.booleans())))
    if loss == "SoftmaxCrossEntropy" and 0 not in shape and draw(st.integers(0, 3)) == 0:
        target = draw(st.sampled_from(SOFT_TARGETS))(rng, logits.astype(np.float64), axis)
        target = laid_out(draw, target.astype(draw(st.sampled_from([np.float32, np.float64]))))
    else:
        ignore_index = options.get("ignore_index", -100)
        target = rng.integers(classes, size=rows)
        if draw(st.booleans()):
            target = np.where(rng.random(rows) < 0.3, ignore_index, target)
        fitting = [d for d in INTEGERS if np.array_equal(target, target.astype(d))]
        target = laid_out(draw, target.astype(draw(st.sampled_from(fitting))))

    call = {}
    if draw(st.integers(0, 3)) == 0:
        call["sample_weight"] = laid_out(draw, row_weight(rng, logits, target, axis))
    if draw(st.integers(0, 3)) == 0:
        mask = draw(st.sampled_from([class_mask, element_mask]))
        call["where"] = laid_out(draw, np.asarray(mask(rng, logits, target, axis)))
    if draw(st.integers(0, 3)) == 0:
        call["normalizer"] = 7.5
    if draw(st.integers(0, 3)) == 0:
        of_rows = options["reduction"] == "none"
        factor = per_row(rng, logits, target, axis) if of_rows else -1.5
        call["grad_output"] = laid_out(draw, factor) if of_rows else factor
    return Case("drawn", loss, None, shape, options=options), Batch(logits, target, call)


@st.composite
def sigmoid_batches(draw):
    loss = draw(st.sampled_from(["BCEWithLogits", "SigmoidFocalLoss"]))
    sizes = st.one_of(
        st.integers(0, 40), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 1])
    )
    shape = tuple(draw(st.lists(sizes, max_size=3)))
    if math.prod(shape) > MOST_ELEMENTS:
        shape = shape[:1]
    rng = np.random.default_rng(draw(SEEDS))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    options = {"reduction": draw(REDUCTIONS)}

    def maybe(name, *values):
        if draw(st.integers(0, 3)) == 0:
            options[name] = values[draw(st.integers(0, len(values) - 1))]

    maybe("label_smoothing", 0.1, 1.0)
    if loss == "BCEWithLogits":
        maybe("pos_weight", 2.5, rng.integers(5, size=shape[-1:]) / 2)
    else:
        maybe("gamma", 0.0, 0.3, 0.5, 1.0, 3.7)
        maybe("alpha", None, 0.0, 1.0, 0.6)
    logits = laid_out(draw, made_logits(draw, rng, shape, dtype, draw(st.booleans())))
    target = np.asarray(
        draw(st.sampled_from(SIGMOID_TARGETS))(rng, np.nan_to_num(logits.astype(np.float64)), -1)
    )
    target = laid_out(draw, target)

    call = {}
    if draw(st.integers(0, 3)) == 0:
        weights = [element_weight, weight_per_row] if shape else [element_weight]
        weigh = draw(st.sampled_from(weights))
        call["sample_weight"] = laid_out(draw, weigh(rng, logits, target, -1))
    if draw(st.integers(0, 3)) == 0:
        call["where"] = laid_out(draw, np.asarray(element_mask(rng, logits, target, -1)))
    if draw(st.integers(0, 3)) == 0:
        call["normalizer"] = 7.5
    if draw(st.integers(0, 3)) == 0:
        of_elements = options["reduction"] == "none"
        factor = per_element(rng, logits, target, -1) if of_elements else -1.5
        call["grad_output"] = laid_out(draw, factor) if of_elements else factor
    return Case("drawn", loss, None, shape, options=options), Batch(logits, target, call)


def outputs(draw, logits):
    """Two outputs for the derivatives, of any kind that there is."""
    kind = draw(
        st.sampled_from(["fresh", "float32", "backwards", "spread", "swapped", "logits", "none"])
    )
    if kind == "none":
        return None, None
    if kind == "logits" and logits.flags.writeable and logits.dtype.isnative:
        return logits.copy(), None  # the copy is what the call is made with
    dtype = logits.dtype.newbyteorder("=")
    if kind == "float32" and dtype.itemsize == 2:
        dtype = np.dtype(np.float32)
    if kind == "swapped":
        dtype = dtype.newbyteorder("S")
    made = [np.full(logits.shape, MARK, dtype) for _ in range(2)]
    if kind == "spread" and logits.ndim:
        made = [np.repeat(out, 3, axis=-1)[..., 1::3] for out in made]
    if kind == "backwards" and logits.ndim:
        made = [out[::-1] for out in made]
    return tuple(made)


def assert_equals_the_reference(actual, truth, tolerance, result_dtype, computed_in):
    """Within the tolerance; what is too large for the type is infinite, and too small for it 0."""
    truth, actual = np.asarray(truth), np.asarray(actual)
    largest = float(ml_dtypes.finfo(result_dtype).max)
    truth = np.where(np.abs(truth) > largest, np.copysign(np.inf, truth), truth)
    # A factor below the smallest normal number may be 0, and what it is multiplied with is large.
    floor = 4000 * float(np.finfo(computed_in).smallest_normal)
    tolerance = SLACK * np.asarray(tolerance) + floor
    # Where the bound itself has no value (0 times infinity), some digits have to be right.
    tolerance = np.where(np.isnan(tolerance), 1e-4 * np.abs(truth) + floor, tolerance)
    assert_within(actual, truth, tolerance, result_dtype)


def compare(data, c, batch):
    truth, bound = c.truth(batch), tolerances(c, batch)
    made = c.build()
    grad_out, hess_out = outputs(data.draw, batch.logits)
    in_place = hess_out is None and grad_out is not None
    logits = grad_out if in_place else batch.logits
    before = [np.asarray(x).tobytes() for x in (batch.logits, batch.target, *batch.call.values())]
    forward = {name: x for name, x in batch.call.items() if name != "grad_output"}
    variant = data.draw(st.sampled_from(list(variants.available())))
    with variants.using(variant), np.errstate(all="raise"):
        values = [made(batch.logits, batch.target, **forward)]
        value, grad, hess = made.value_grad_hess(
            logits, batch.target, out=(grad_out, hess_out), **batch.call
        )
        values.append(value)
        value, other_grad = made.value_and_grad(batch.logits, batch.target, **batch.call)
        values.append(value)
    computed_in = working(batch.logits.dtype)
    for value in values:
        value_dtype = computed_in if c.reduction == "none" else np.dtype(float)
        assert_equals_the_reference(value, truth[0], bound[0], value_dtype, computed_in)
    for result, i in ((grad, 1), (other_grad, 1), (hess, 2)):
        dtype = result.dtype.newbyteorder("=")
        assert_equals_the_reference(
            result.astype(truth[i].dtype), truth[i], bound[i], dtype, computed_in
        )
    if grad_out is not None:
        assert grad is grad_out
    after = [np.asarray(x).tobytes() for x in (batch.logits, batch.target, *batch.call.values())]
    assert after == before


@FUZZ
@given(data=st.data())
def test_softmax_losses_equal_the_reference(data):
    compare(data, *data.draw(softmax_batches()))


@FUZZ
@given(data=st.data())
def test_sigmoid_losses_equal_the_reference(data):
    compare(data, *data.draw(sigmoid_batches()))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_bounds_know_no_order_of_bytes(dtype):
    """Swapped float64 was once held to the range, and the bound, of float32."""
    logits = np.array([[1e300 if dtype == "float64" else 3.0, -0.5, 2.0]]).astype(DTYPES[dtype])
    swapped = logits.astype(logits.dtype.newbyteorder("S"))
    assert working(swapped.dtype) == working(logits.dtype)
    c = Case("drawn", "SoftmaxFocalLoss", None, logits.shape, options={"reduction": "none"})
    bounds = [tolerances(c, Batch(z, np.array([1]), {})) for z in (logits, swapped)]
    for a, b in zip(*bounds, strict=True):
        np.testing.assert_array_equal(a, b)
