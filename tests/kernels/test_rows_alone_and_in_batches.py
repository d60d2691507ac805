"""A row's result does not depend on the rows beside it, bit for bit, in any loss or function.

Every kind of row is put in every position of a block, in every plan, type, loss, option and result.
What has been run is recorded, and the last test demands that nothing that exists was left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from cases import DISTILLATION, DTYPES, SIGMOID, SOFTMAX
from edge_rows import IGNORED, ORDINARY, edge_elements, edge_rows, every_position, odd_orders
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st
from layouts import odd_strides

import fastce
from fastce._call import variants
from fastce.evaluation._evaluate import Options

SIZES = variants.core.thresholds()
NAMES = ("softmax", "log_softmax", "logsumexp")
LAYOUTS = ("rows", "spread", "gathered", "planes")
MOST_ELEMENTS = 1 << 18  # of a batch
CALL = ("where", "sample_weight", "grad_output")

# Losses and functions, and what they are asked for ------------------------------------------------


class Way(NamedTuple):
    """A loss or function, its options, and what its call is given beside logits and target."""

    name: str
    options: dict = {}  # noqa: RUF012
    call: tuple[str, ...] = ()
    target: str = "label"

    def __str__(self):
        return " ".join([self.name, *self.options, *self.call, self.target])

    def features(self):
        """What of the loss this way takes, by name."""
        found = {*self.options, *self.call} | ({self.target} - {"label", "teacher"})
        return found or {"plain"}


def softmax_ways(classes):
    weight = 0.25 * (np.arange(classes) % 4)  # of every fourth class 0
    everything = {"weight": weight, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 9.0}
    cross_entropy, focal = SOFTMAX
    return [
        Way(cross_entropy),
        Way(cross_entropy, {"label_smoothing": 0.1}),
        Way(cross_entropy, {"label_smoothing": 1.0}, ("sample_weight",)),
        Way(cross_entropy, {"weight": weight, "label_smoothing": 0.1}),
        Way(cross_entropy, {"weight": weight, "ignore_index": 0}),
        Way(cross_entropy, {"z_loss": 0.01}),
        Way(cross_entropy, {"logit_scale": 0.5}),
        Way(cross_entropy, {"softcap": 9.0}),
        Way(cross_entropy, {}, ("where",)),
        Way(cross_entropy, {}, ("sample_weight",)),
        Way(cross_entropy, {}, ("grad_output",)),
        Way(cross_entropy, everything, CALL),
        Way(cross_entropy, {}, (), "probabilities"),
        Way(cross_entropy, {"label_smoothing": 0.1}, ("where",), "probabilities"),
        Way(cross_entropy, everything, CALL, "probabilities"),
        Way(focal),
        Way(focal, {"gamma": 0.5, "alpha": weight}),
        Way(focal, {"gamma": 3.7, "ignore_index": 0}, ("sample_weight",)),
        Way(focal, {"gamma": 1.0}, CALL),
        Way(DISTILLATION, {}, (), "teacher"),
        Way(DISTILLATION, {"temperature": 2.0}, ("where",), "teacher"),
        Way(DISTILLATION, {"temperature": 0.5}, ("sample_weight", "grad_output"), "teacher"),
        *(Way(name, {}, call) for name in NAMES for call in ((), ("where",))),
        Way("token_log_probs"),
        Way("statistics"),
    ]


SIGMOID_WAYS = [
    Way("BCEWithLogits"),
    Way("BCEWithLogits", {"label_smoothing": 0.1}),
    Way("BCEWithLogits", {"pos_weight": 2.5}),
    Way("BCEWithLogits", {}, ("where",)),
    Way("BCEWithLogits", {"pos_weight": 2.5, "label_smoothing": 0.1}, CALL),
    *(Way("SigmoidFocalLoss", {"gamma": gamma}) for gamma in (0.0, 0.5, 3.7)),
    Way("SigmoidFocalLoss"),
    Way("SigmoidFocalLoss", {"alpha": None}),
    Way("SigmoidFocalLoss", {"label_smoothing": 0.1}),
    Way("SigmoidFocalLoss", {"alpha": 0.6}, CALL),
]

# How many results are computed, where the derivative goes, and the reduction. The results of one
# row alone are those of reduction "none" in new arrays.
LOSS_RESULTS = {
    "loss": (1, "new", "none"),
    "gradient": (2, "new", "none"),
    "gradient over the logits": (2, "logits", "none"),
    "gradient in float32": (2, "float32", "none"),
    "Hessian": (3, "new", "none"),
    "gradient of the sum": (2, "new", "sum"),
    "Hessian of the sum": (3, "new", "sum"),
}
FUNCTION_RESULTS = {
    "softmax": ("function", "function over the logits"),
    "log_softmax": ("function", "function over the logits"),
    "logsumexp": ("function",),
    "token_log_probs": ("function",),
    "statistics": ("function", "function in float64"),
}


def results_of(way, dtype):
    """The names of all results that a way has."""
    if way.name in FUNCTION_RESULTS:
        return FUNCTION_RESULTS[way.name]
    given_rows = "grad_output" in way.call  # which the loss alone, and a sum, do not take
    return tuple(
        name
        for name, (count, where, reduction) in LOSS_RESULTS.items()
        if not (given_rows and (count == 1 or reduction == "sum"))
        and not (where == "float32" and DTYPES[dtype].itemsize != 2)
    )


# Arrays in memory ---------------------------------------------------------------------------------


def laid(array, layout):
    """A copy of (rows, classes) as a layout has them; the classes of planes are the first axis."""
    if layout == "spread":
        return np.repeat(array, 2, axis=1)[:, ::2]
    if layout == "gathered":
        return odd_strides(array)
    return np.array(array.T if layout == "planes" else array, order="C")


def plan_of(z, axis):
    plan = variants.core.plan_of(z, axis)
    if plan == "block by rows" and is_long(z.shape[axis], z.dtype):
        plan = "block by rows, chunks of one"
    return plan or "gathered"


def is_long(classes, dtype):
    return classes * max(dtype.itemsize, 4) > SIZES["largest block bytes"]


def class_counts(layout, dtype):
    """On both sides of every threshold of the plans."""
    size = max(DTYPES[dtype].itemsize, 4)
    few, spread = SIZES["interleaved classes"], SIZES["spread classes"]
    if layout == "planes":
        together = SIZES["classes together"]
        full = SIZES["plane bytes"] // size // SIZES["plane rows"]
        least = SIZES["plane bytes"] // size // SIZES["least plane rows"]
        return (2, few, few + 1, together, together + 1, spread + 1, full, full + 1, least + 1)
    block, long = SIZES["block bytes"] // size, SIZES["largest block bytes"] // size
    return (
        *(1, 2, 3, few),
        *(few + 1, spread, spread + 1),
        *(block // SIZES["block rows"] + more for more in (-1, 0, 1)),
        SIZES["short row"] + 1,
        block // SIZES["least rows"] + 1,
        *(long, long + 1, long + SIZES["chunk"] + 1),
    )


def rows_of_run(classes, layout, dtype):
    """Rows of a block at most, and how many of them have positions that a kernel can tell apart."""
    size = max(DTYPES[dtype].itemsize, 4)
    if layout == "planes":
        # A vector has up to 16 lanes; the numbers of rows are finished by blocks.
        run = min(SIZES["plane rows"], SIZES["plane bytes"] // size // classes)
        return max(run, 1), SIZES["block rows"] if classes <= SIZES["spread classes"] else 16
    if classes <= SIZES["interleaved classes"]:
        return SIZES["interleaved rows"], SIZES["interleaved rows"]
    rows = SIZES["block rows"]
    while rows > 1 and rows * classes * size > SIZES["block bytes"]:
        rows //= 2
    return rows, rows


# One call -----------------------------------------------------------------------------------------


def call_loss(way, made, z, target, given, result, axis):
    """Return a tuple of what a result consists of, as the loss returns it."""
    count, where, _ = LOSS_RESULTS[result]
    if count == 1:
        return (made(z, target, **given),)
    out = None
    if where == "logits":
        out = z
    elif where == "float32":
        out = np.full(z.shape, 7, np.float32)
    if count == 2:
        return made.value_and_grad(z, target, out=out, **given)
    return made.value_grad_hess(z, target, **given)


def call_function(way, z, label, given, result, axis):
    if way.name == "token_log_probs":  # which ignores none
        label = np.maximum(label, 0)
        return tuple(fastce.token_log_probs(z, label, axis=axis, **given))
    if way.name == "statistics":
        kernel = Options(-1, IGNORED, 15, 100).kernel(1.0)
        found = kernel.read_tokens(
            np.moveaxis(z, axis, -1),
            label,
            statistics=True,
            double_precision=result.endswith("float64"),
            checked=True,
        )
        # Of a row that does not count, no evaluation reads the numbers.
        return (*found[:3], np.where(label == IGNORED, 0.0, found[3]).T)
    out = z if result.endswith("over the logits") else None
    extra = {} if out is None else {"out": out}
    return (getattr(fastce, way.name)(z, axis=axis, **given, **extra),)


def call(way, made, rows, result, layout):
    """What a way makes of rows: a tuple of arrays, the rows first."""
    axis = 0 if layout == "planes" else -1
    z = laid(rows.logits, layout)
    given = {
        name: laid(rows.where, layout) if name == "where" else getattr(rows, name)
        for name in way.call
    }
    target = getattr(rows, way.target)
    if target.ndim == 2:
        target = laid(target, layout)
    if way.name in FUNCTION_RESULTS:
        found = call_function(way, z, target, given, result, axis)
    else:
        found = call_loss(way, made[result.endswith("sum")], z, target, given, result, axis)
    return plan_of(z, axis), rows_first(found, z, axis)


def rows_first(found, z, axis):
    return tuple(x.T if np.shape(x) == z.shape and axis == 0 else x for x in found)


def alone(way, made, rows, result, layout):
    """The same of each row on its own: contiguous, or a column of planes that are further apart."""
    axis = 0 if layout == "planes" else -1
    matrices = [x for x in rows if x.ndim == 2]
    wide = {id(x): laid(x, "planes" if axis == 0 else "rows") for x in matrices}
    found = []
    for i in range(len(rows.logits)):

        def cut(array, i=i):
            if array.ndim == 1:
                return array[i : i + 1]
            return wide[id(array)][:, i : i + 1] if axis == 0 else wide[id(array)][i : i + 1]

        z = cut(rows.logits)
        given = {name: cut(getattr(rows, name)) for name in way.call}
        target = cut(getattr(rows, way.target))
        if way.name in FUNCTION_RESULTS:
            one = call_function(way, z, target, given, result, axis)
        else:
            one = call_loss(way, made[False], z, target, given, result, axis)
        found.append(rows_first(one, z, axis))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def kinds_that_differ(array, of_kinds, kinds):
    """The kinds of rows whose bits are not those of their kind; one NaN is as good as another."""
    expected = of_kinds[kinds]
    array = np.ascontiguousarray(array.astype(expected.dtype, copy=False))
    unsigned = f"u{array.dtype.itemsize}"
    differs = array.view(unsigned) != expected.view(unsigned)
    if not differs.any():
        return set()
    if array.dtype.kind != "i":
        differs &= ~(np.isnan(array) & np.isnan(expected))
    return set(kinds[differs.reshape(len(kinds), -1).any(axis=1)].tolist())


ALONE = {"gradient over the logits": "gradient", "gradient in float32": "gradient"}
ALONE |= {"gradient of the sum": "gradient", "Hessian of the sum": "Hessian"}
ALONE |= {"function over the logits": "function"}


def check_way(way, rows, orders, dtype, layout, executed):
    """Compare batches, each given by the kinds of its rows, with the bits of each kind alone."""
    made = None
    if way.name not in FUNCTION_RESULTS:
        axis = 0 if layout == "planes" else -1
        loss = getattr(fastce, way.name)
        made = [loss(axis=axis, reduction=r, **way.options) for r in ("none", "sum")]
    ignored = way.options.get("ignore_index", IGNORED)
    rows = rows._replace(label=np.where(rows.label == IGNORED, ignored, rows.label))
    singles = {}
    batches = [(kinds, rows.take(kinds)) for kinds in orders]
    for result in results_of(way, dtype):
        key = ALONE.get(result, result)
        if key not in singles:
            singles[key] = alone(way, made, rows, key, layout)
        for kinds, batch in batches:
            plan, found = call(way, made, batch, result, layout)
            wrong = set()
            for of_row, in_batch in zip(singles[key], found, strict=True):
                if np.ndim(in_batch) == 0:
                    continue  # the sum of a batch is of no row
                wrong |= kinds_that_differ(in_batch, of_row, kinds)
            assert not wrong, (
                f"{way}: kinds of rows whose {result} depends on neighbours, {dtype} {layout} of "
                f"{rows.logits.shape[1:]} classes, {len(kinds)} rows: {sorted(wrong)}"
            )
            executed.update((plan, dtype, way.name, feature, result) for feature in way.features())


# The sweep ----------------------------------------------------------------------------------------


@cache
def sweep(isa, dtype, layout):
    """Check every way in this type and layout, with the thresholds' class counts in turn.

    Return what has been executed.
    """
    executed = Counter()
    counts = class_counts(layout, dtype)
    kept = {}
    for turn, which in enumerate(softmax_ways(1)):
        groups = itertools.groupby(counts, lambda classes: plan_group(classes, layout, dtype))
        for _, group in groups:
            group = tuple(group)
            classes = group[(turn + len(dtype)) % len(group)]
            if classes not in kept:
                kept[classes] = ready(classes, dtype, layout)
            rows, orders = kept[classes]
            way = softmax_ways(classes)[turn]
            assert way[0] == which[0]
            check_way(way, rows, orders, dtype, layout, executed)
    return executed


def plan_group(classes, layout, dtype):
    """Class counts of which each way takes one in turn."""
    if layout == "planes":
        return classes > SIZES["spread classes"] + 1
    if classes <= SIZES["interleaved classes"]:
        return 0
    return 2 if is_long(classes, DTYPES[dtype]) else 1


def ready(classes, dtype, layout):
    rng = np.random.default_rng([classes, len(layout)])
    rows = edge_rows(classes, dtype, rng)
    kinds = len(rows.logits)
    run, period = rows_of_run(classes, layout, dtype)
    ordinary = np.arange(ORDINARY, kinds)
    while kinds * period * classes > MOST_ELEMENTS:
        period //= 2
    longest = min(run + 3, max(MOST_ELEMENTS // 4 // classes, 5))
    orders = [every_position(kinds, period), *odd_orders(kinds, ordinary, rng, longest)]
    return rows, orders


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_is_the_row_in_a_batch(dtype, layout, isa):
    assert sweep(isa, dtype, layout)
