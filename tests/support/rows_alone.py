"""Results of rows alone, and of the same rows in batches: in each plan, loss, option and result."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
from cases import DISTILLATION, DTYPES, SIGMOID, SOFTMAX
from edge_rows import (
    IGNORED,
    ORDINARY,
    ORDINARY_ELEMENTS,
    edge_elements,
    edge_rows,
    every_position,
    odd_orders,
    take,
)
from layouts import odd_strides
from sizes import CHUNK, SIZES, class_counts, is_long, rows_of_run

import fastce
from fastce._call import variants
from fastce.evaluation._evaluate import Options

NAMES = ("softmax", "log_softmax", "logsumexp")
LAYOUTS = ("rows", "spread", "gathered", "planes")
MOST_ELEMENTS = 1 << 17  # of a batch
ONE_ROW = "block by rows, a row in chunks"
CALL = ("where", "sample_weight", "grad_output")

# Losses and functions, and what they are asked for ------------------------------------------------


class Way(NamedTuple):
    """A loss or function, its options, and the arguments of its call besides logits and target."""

    name: str
    options: dict = {}  # noqa: RUF012
    call: tuple[str, ...] = ()
    target: str = "label"

    def __str__(self):
        return " ".join([self.name, *self.options, *self.call, self.target])

    def features(self):
        """The features of the loss that this way uses, by name."""
        found = {*self.options, *self.call} | ({self.target} & {"probabilities"})
        return found or {"plain"}


def softmax_ways(classes):
    weight = 0.25 * (np.arange(classes) % 4)  # 0 for every fourth class
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
        Way(focal, {"gamma": 1.0}, ("where",)),
        Way(focal, {"gamma": 1.0, "alpha": weight}, CALL),
        Way(DISTILLATION, {}, (), "teacher"),
        Way(DISTILLATION, {"temperature": 2.0}, ("where",), "teacher"),
        Way(DISTILLATION, {"temperature": 0.5}, ("sample_weight",), "teacher"),
        Way(DISTILLATION, {}, CALL, "teacher"),
        *(Way(name, {}, call) for name in NAMES for call in ((), ("where",))),
        Way("token_log_probs"),
        Way("statistics"),
    ]


SIGMOID_WAYS = [
    Way("BCEWithLogits", {}, (), "target"),
    Way("BCEWithLogits", {"label_smoothing": 0.1}, (), "target"),
    Way("BCEWithLogits", {"pos_weight": 2.5}, ("where",), "target"),
    Way("BCEWithLogits", {}, ("sample_weight",), "target"),
    Way("BCEWithLogits", {"pos_weight": 2.5, "label_smoothing": 0.1}, CALL, "target"),
    *(Way("SigmoidFocalLoss", {"gamma": g}, (), "target") for g in (0.0, 0.5, 3.7)),
    Way("SigmoidFocalLoss", {}, (), "target"),
    Way("SigmoidFocalLoss", {"alpha": None}, ("where",), "target"),
    Way("SigmoidFocalLoss", {"label_smoothing": 0.1}, ("sample_weight",), "target"),
    Way("SigmoidFocalLoss", {"alpha": 0.6}, CALL, "target"),
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
    """A copy of rows in a layout; the classes of planes are the first axis."""
    if layout == "spread":
        return np.repeat(array, 2, axis=1)[:, ::2]
    if layout == "gathered":
        return odd_strides(array)
    return np.array(array.T if layout == "planes" else array, order="C")


def plan_of(way, result, z, axis):
    """The plan of this call: one of the core, or the name of another path."""
    if way.name in SIGMOID:
        return "elements" if z.flags.c_contiguous else "elements, gathered"
    if result == "function in float64" and z.dtype != np.float64:
        return "gathered"
    plan = variants.core.plan_of(z, axis)
    if plan == "block by rows" and is_long(z.shape[axis], z.dtype):
        return ONE_ROW
    return plan or "gathered"


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
    if way.name == "token_log_probs":  # which ignores no label
        label = np.maximum(label, 0)
        return tuple(fastce.token_log_probs(z, label, axis=axis, **given))
    if way.name == "statistics":
        kernel = Options(IGNORED, 15, 100).kernel(1.0)
        found = kernel.read_tokens(
            np.moveaxis(z, axis, -1),
            label,
            statistics=True,
            double_precision=result.endswith("float64"),
            checked=True,
        )
        # No evaluation reads the numbers of a row that does not count.
        return (*found[:3], np.where(label == IGNORED, 0.0, found[3]).T)
    out = z if result.endswith("over the logits") else None
    extra = {} if out is None else {"out": out}
    return (getattr(fastce, way.name)(z, axis=axis, **given, **extra),)


def call(way, made, rows, result, layout):
    """The plan and the results of a way: a tuple of arrays with the rows first."""
    axis = 0 if layout == "planes" else -1
    z = laid(rows.logits, layout)
    given = {
        name: laid(rows.where, layout) if name == "where" else getattr(rows, name)
        for name in way.call
    }
    target = getattr(rows, way.target)
    if target.shape == rows.logits.shape:
        target = laid(target, layout)
    if way.name in FUNCTION_RESULTS:
        found = call_function(way, z, target, given, result, axis)
    else:
        found = call_loss(way, made[result.endswith("sum")], z, target, given, result, axis)
    return plan_of(way, result, z, axis), rows_first(found, z, axis)


def rows_first(found, z, axis):
    return tuple(x.T if np.shape(x) == z.shape and axis == 0 else x for x in found)


def alone(way, made, rows, result, layout):
    """The same for each row alone, cut out of the batch."""
    axis = 0 if layout == "planes" else -1
    wide = {id(x): laid(x, layout) for x in rows if x.ndim == 2}
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
    """The kinds of rows whose bits are not those of their kind; all NaNs count as equal."""
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
        options = way.options | ({"axis": 0} if layout == "planes" else {})
        made = [getattr(fastce, way.name)(reduction=r, **options) for r in ("none", "sum")]
    if "ignore_index" in way.options:
        label = np.where(rows.label == IGNORED, way.options["ignore_index"], rows.label)
        rows = rows._replace(label=label)
    singles = {}
    batches = [(kinds, take(rows, kinds)) for kinds in orders]
    for result in results_of(way, dtype):
        key = ALONE.get(result, result)
        if key not in singles:
            with np.errstate(all="raise"):  # NumPy must not see an error
                singles[key] = alone(way, made, rows, key, layout)
        for kinds, batch in batches:
            with np.errstate(all="raise"):
                plan, found = call(way, made, batch, result, layout)
            wrong = set()
            for of_row, in_batch in zip(singles[key], found, strict=True):
                if np.ndim(in_batch) == 0:
                    continue  # the sum of a batch belongs to no row
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
    executed, kept = Counter(), {}
    counts = class_counts(layout, dtype)
    for turn in range(len(softmax_ways(1))):
        groups = itertools.groupby(counts, lambda classes: plan_group(classes, layout, dtype))
        for _, group in groups:
            group = tuple(group)
            classes = group[(turn + len(dtype)) % len(group)]
            if classes not in kept:
                kept[classes] = ready(classes, dtype, layout)
            rows, orders = kept[classes]
            check_way(softmax_ways(classes)[turn], rows, orders, dtype, layout, executed)
    return executed


@cache
def sweep_of_elements(isa, dtype, layout):
    """The same for losses of independent elements."""
    executed = Counter()
    rng = np.random.default_rng(len(layout))
    elements = edge_elements(dtype, rng)
    kinds = len(elements.logits)
    ordinary = np.arange(ORDINARY_ELEMENTS)
    plain = rng.choice(ordinary, size=2 * CHUNK + 5)
    late = plain.copy()
    late[CHUNK + 7] = ORDINARY_ELEMENTS + 3
    # A stride is 8 vectors of up to 16 lanes; where a chunk ends, the next begins anew.
    orders = [every_position(kinds, 128), plain, late, *odd_orders(kinds, ordinary, rng, 129)]
    for way in SIGMOID_WAYS:
        check_way(way, elements, orders, dtype, layout, executed)
    return executed


def plan_group(classes, layout, dtype):
    """The group of a class count: each way takes one count per group, in turn."""
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


# All combinations ---------------------------------------------------------------------------------


def can_be(plan, dtype, feature, result):
    """Tell whether a combination exists, and if not, why."""
    given_rows = feature == "grad_output"
    if given_rows and (result == "loss" or result.endswith("sum")):
        return False  # a factor for each row is for derivatives, with reduction "none"
    if result == "gradient in float32" and DTYPES[dtype].itemsize != 2:
        return False  # others are written in the type of the logits
    # To be computed in float64, other logits are gathered.
    return not (result == "function in float64" and dtype != "float64" and plan != "gathered")


def every_combination():
    """All plans, types of logits, losses with each of their options, and results that exist.

    Taken from the core and the losses, so that what is added there counts as missing until it runs.
    """
    softmax = (*variants.core.PLANS, ONE_ROW, "gathered")
    elements = ("elements", "elements, gathered")
    for names, plans in (((*SOFTMAX, DISTILLATION), softmax), (SIGMOID, elements)):
        for name, plan, dtype in itertools.product(names, plans, DTYPES):
            loss = getattr(fastce, name)
            options = {f.name for f in dataclasses.fields(loss)} - {"axis", "reduction"}
            soft = {"probabilities"} if getattr(loss, "takes_probabilities", False) else set()
            for feature in {"plain", *CALL} | options | soft:
                for result in LOSS_RESULTS:
                    if can_be(plan, dtype, feature, result):
                        yield plan, dtype, name, feature, result
    for (name, results), plan, dtype in itertools.product(
        FUNCTION_RESULTS.items(), softmax, DTYPES
    ):
        for feature in ("plain", "where") if name in NAMES else ("plain",):
            for result in results:
                if can_be(plan, dtype, feature, result):
                    yield plan, dtype, name, feature, result
