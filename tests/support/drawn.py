"""Random batches: shapes, strides, types, options, labels and hostile values drawn together."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
from batches import (
    at_the_ends,
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
from cases import CASES, DISTILLATION, DTYPES, INTEGERS, SIGMOID, Batch, Case
from hypothesis import strategies as st
from layouts import LAYOUTS, zero_strides
from sizes import CHUNK, class_counts

MOST_ELEMENTS = 12_000

# The sizes at which a plan or path of the kernels changes, in any precision, and their neighbours.
SWITCHES = sorted(
    {
        classes + more
        for layout, dtype in itertools.product(("rows", "planes"), ("float32", "float64"))
        for classes in class_counts(layout, dtype)
        for more in (-1, 0, 1)
        if 0 < classes + more <= MOST_ELEMENTS
    }
)
TYPES = tuple(sorted(DTYPES))
CLASSES = st.one_of(st.integers(1, 40), st.sampled_from(SWITCHES))
SEEDS = st.integers(0, 2**32 - 1)
LOGITS = (on_grid, on_grid, off_grid, confident, far_apart, at_the_ends, equal)
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


def now_and_then(draw, options, name, *values):
    """Set an option to one of the values."""
    if draw(st.integers(0, 3)) == 0:
        options[name] = values[draw(st.integers(0, len(values) - 1))]


@st.composite
def softmax_batches(draw, losses, dtypes=TYPES):
    loss = draw(st.sampled_from(losses))
    classes = draw(CLASSES)
    shape, axis = draw(shapes(classes))
    rng = np.random.default_rng(draw(SEEDS))
    dtype = draw(st.sampled_from(dtypes))
    rows = tuple(np.delete(shape, axis))
    options = {"axis": axis, "reduction": draw(REDUCTIONS)}

    maybe = partial(now_and_then, draw, options)
    class_weight = rng.integers(5, size=classes) / 2
    if loss != DISTILLATION:
        maybe("ignore_index", 0, classes - 1, 2**62)
    if loss == DISTILLATION:
        maybe("temperature", 0.5, 2.0, 7.0, 2.0**60)
    elif loss == "SoftmaxCrossEntropy":
        maybe("weight", class_weight)
        maybe("label_smoothing", 0.1, 1.0)
        maybe("z_loss", 1e-2)
        maybe("logit_scale", 0.3, 2.0)
        maybe("softcap", 5.0, 30.0, 1e39)
    else:
        maybe("gamma", 0.0, 0.3, 0.5, 1.0, 3.7)
        maybe("alpha", class_weight)

    logits = laid_out(draw, made_logits(draw, rng, shape, dtype, draw(st.booleans())))
    if loss == DISTILLATION:
        hostile = draw(st.booleans())
        target = laid_out(draw, made_logits(draw, rng, shape, dtype, hostile))
    elif loss == "SoftmaxCrossEntropy" and 0 not in shape and draw(st.integers(0, 3)) == 0:
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
        kept = np.zeros(shape) if loss == DISTILLATION else target  # whose classes are kept
        call["where"] = laid_out(draw, np.asarray(mask(rng, logits, kept, axis)))
    if draw(st.integers(0, 3)) == 0:
        call["normalizer"] = 7.5
    if draw(st.integers(0, 3)) == 0:
        of_rows = options["reduction"] == "none"
        factor = per_row(rng, logits, target, axis) if of_rows else -1.5
        call["grad_output"] = laid_out(draw, factor) if of_rows else factor
    return Case("drawn", loss, None, shape, options=options), Batch(logits, target, call)


@st.composite
def sigmoid_batches(draw, dtypes=TYPES):
    loss = draw(st.sampled_from(["BCEWithLogits", "SigmoidFocalLoss"]))
    sizes = st.one_of(
        st.integers(0, 40), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 1])
    )
    shape = tuple(draw(st.lists(sizes, max_size=3)))
    if math.prod(shape) > MOST_ELEMENTS:
        shape = shape[:1]
    rng = np.random.default_rng(draw(SEEDS))
    dtype = draw(st.sampled_from(dtypes))
    options = {"reduction": draw(REDUCTIONS)}

    maybe = partial(now_and_then, draw, options)
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
