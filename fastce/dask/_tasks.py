"""The tasks of the graphs: operations on one chunk, or on the summaries of a row of chunks.

They take and return NumPy arrays, or tuples of them, and are pickled by name. Their `loss` is the
sum over the chunk, or the losses themselves; the graph divides by the denominator.

`slices` give the position of the chunk in the whole array, along each axis of the task. `located`
maps the name of an argument to the slices of its axes, so that an error names a position in the
whole array.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastce import sharded
from fastce._call import checks, layout, positions, threads, variants
from fastce.evaluation import Evaluation, evaluate
from fastce.sharded import _summary_of
from fastce.sharded._rows import Rows, weights_of_rows
from fastce.softmax import token_log_probs

Located = Mapping[str, tuple[int | None, ...]]


def one(size: int) -> int:
    return 1


def unchanged(array: Any, axis: Any, keepdims: bool) -> Any:
    return array


def first(results: Any, axis: Any, keepdims: bool) -> Any:
    return results[0]


def pick(results: Any, i: int) -> Any:
    """Return one of the results of a chunk, which Dask passes in a list if it drops an axis."""
    (results,) = results if isinstance(results, list) else (results,)
    return results[i]


def as_chunk(value: Any, ndim: int) -> Any:
    """Return a sum as the single element of a chunk, and losses unchanged."""
    return value if isinstance(value, np.ndarray) else np.full((1,) * ndim, value)


def no_gradient(logits: Any) -> Any:
    return np.zeros_like(logits, logits.dtype.newbyteorder("="))


def in_whole(slices: Any, located: Located) -> contextlib.AbstractContextManager[None]:
    """Let errors state positions in the whole arrays; None is a broadcast axis."""
    return positions.counted_from(
        {
            name: tuple(0 if i is None else slices[i].start for i in axes)
            for name, axes in located.items()
        }
    )


# Sums ---------------------------------------------------------------------------------------------


def total(parts: Any, axis: Any, keepdims: bool) -> Any:
    """Add up the numbers of chunks along all axes, rounding once."""
    found = threads.total(parts.ravel().tolist())
    return np.reshape(found, (1,) * parts.ndim if keepdims else ())


def totals(parts: Any, axis: Any, keepdims: bool) -> Any:
    """Add up the pairs of chunks along all axes except the last one, that of the pairs."""
    return np.stack(
        [total(column, axis, keepdims) for column in np.moveaxis(parts, -1, 0)], axis=-1
    )


# Denominators -------------------------------------------------------------------------------------
# For a chunk, a pair: the sum of its weights, and a number that is 0 if none of them counts.


def weight_of_labels(
    y: Any, weight: Any, slices: Any, loss: Any, classes: int, located: Located
) -> Any:
    with in_whole(slices, located):
        found = weights_of_rows(y, loss, classes, weight)
    return np.reshape(np.asarray(found, np.float64), (1,) * y.ndim + (2,))


def weight_of_samples(weight: Any, where: Any, slices: Any, ndim: int, located: Located) -> Any:
    """Return the pair for the samples or elements that `where` leaves in; both arrays broadcast."""
    if weight is None:
        found: Any = (np.count_nonzero(where),) * 2
    else:
        with in_whole(slices, located):
            weight = checks.sample_weight(weight, np.shape(weight))
        if where is not None:
            weight, where = np.broadcast_arrays(weight, where)
            weight = weight[where]
        once = layout.once(weight)
        with np.errstate(over="ignore"):
            sum_once = np.sum(once, dtype=np.float64)
        found = sum_once * (weight.size // max(once.size, 1)), bool(np.any(once))
    return np.reshape(np.asarray(found, np.float64), (1,) * ndim + (2,))


def denominator(sums: Any, factor: float) -> Any:
    """Return the denominator of a mean: 0 if nothing counts, NaN if the weights overflow."""
    weight, counts = sums.tolist()
    if counts == 0 or factor == 0:
        return np.asarray(0.0)
    return np.asarray(variants.core.denominator_of(weight * factor, True))


def normalizer(value: Any) -> Any:
    return np.asarray(checks.normalizer(value))


def quotient(total: Any, denominator: Any) -> Any:
    """Divide; a mean without any weight is NaN."""
    return np.asarray(float(total) / float(denominator) if denominator else math.nan)


# Chunks of whole rows -----------------------------------------------------------------------------


def on_chunk(
    z: Any,
    y: Any,
    weight: Any,
    where: Any,
    value_of_option: Any,
    denominator: Any,
    slices: Any,
    function: Callable[..., Any],
    loss: Any,
    option: str | None,
    located: Located,
) -> Any:
    if option is not None:  # an array, of which the chunk has its own part
        loss = replace(loss, **{option: value_of_option})
    with in_whole(slices, located):
        return function(loss, z, y, weight, where, denominator)


def value(loss: Any, z: Any, y: Any, weight: Any, where: Any, denominator: Any) -> tuple[Any, ...]:
    return (as_chunk(loss(z, y, sample_weight=weight, where=where), z.ndim),)


def value_and_grad(
    loss: Any, z: Any, y: Any, weight: Any, where: Any, denominator: Any
) -> tuple[Any, ...]:
    if not denominator:
        return np.zeros((1,) * z.ndim), no_gradient(z)
    value, grad = loss.value_and_grad(
        z, y, sample_weight=weight, where=where, grad_output=1.0 / float(denominator)
    )
    return as_chunk(value, z.ndim), grad


def token_log_probs_of_rows(loss: Any, z: Any, y: Any, *unused: Any) -> tuple[Any, ...]:
    return token_log_probs(z, y, axis=loss.axis)


def checked_options(
    axis: Any, ignore_index: Any, temperature: Any, bins: Any, max_rank: Any
) -> dict[str, Any]:
    """Check the options of an evaluation by evaluating no rows."""
    options = {"ignore_index": ignore_index, "bins": bins, "max_rank": max_rank}
    options["temperature"] = temperature
    evaluate(np.zeros((0, 1)), np.zeros(0, int), **options)
    return {"axis": axis, **options}


def evaluation_of_rows(
    loss: Any, z: Any, y: Any, *unused: Any, options: dict[str, Any]
) -> Evaluation:
    return evaluate(z, y, **options)


def merged_evaluations(parts: Any, axis: Any, keepdims: bool) -> Evaluation:
    """Add up evaluations in nested lists, as Dask passes the chunks of several axes."""
    if isinstance(parts, Evaluation):
        return parts
    return functools.reduce(
        operator.add, (merged_evaluations(part, axis, keepdims) for part in parts)
    )


# Chunks of parts of rows --------------------------------------------------------------------------


def summarise_chunk(
    z: Any,
    y: Any,
    where: Any,
    slices: Any,
    loss: Any,
    classes: int,
    argmax: bool,
    located: Located,
) -> Any:
    first_class = slices[loss.axis].start
    with in_whole(slices, located):
        if argmax:  # of `token_log_probs`, which ignores no label
            checks.labels_in_range(y, classes)
        packed = sharded.summarise(z, y, first_class, loss, classes=classes, where=where).packed()
    if argmax:
        any_labels = np.zeros_like(packed[0], np.int64)  # the kernels' argmax skips NaN
        found = any_labels - 1  # of no classes
        if z.shape[loss.axis]:
            found = first_class + token_log_probs(z, any_labels, axis=loss.axis).argmax
        packed = np.concatenate([packed, [found]])
    return np.moveaxis(packed, 0, -1)[..., None, :]


def merge_along(parts: Any, axis: Any, keepdims: bool) -> Any:
    """Merge summaries in their order along an axis, and their argmax if there is one."""
    parts = np.moveaxis(parts, (axis[0], -1), (0, 1))  # (chunks, numbers, rows...)
    merged = functools.reduce(merge, parts)
    merged = np.moveaxis(merged, 0, -1)
    return np.expand_dims(merged, axis) if keepdims else merged


def merge(a: Any, b: Any) -> Any:
    count = 3 if len(a) == 4 else len(a)  # four: a summary without label smoothing, and an argmax
    merged = sharded.merge(_summary_of(a[:count]), _summary_of(b[:count])).packed()
    first, second = a[count:], b[count:]  # -1 if there are no classes
    argmax = np.where((a[:1] >= b[:1]) & (first >= 0) | (second < 0), first, second)
    return np.concatenate([merged, argmax])


def unpacked(packed: Any) -> sharded.AnySummary:
    return _summary_of(np.moveaxis(packed, -1, 0))


def finish(
    total: Any,
    y: Any,
    weight: Any,
    slices: Any,
    loss: Any,
    classes: int,
    dtype_of_rows: Any,
    located: Located,
) -> tuple[Any, ...]:
    shape = total.shape[:-1]
    if y is None:  # a teacher's logits
        axis = loss.axis % total.ndim
        y = np.empty((*shape[:axis], 0, *shape[axis:]))
    with in_whole(slices, located):
        value = sharded.finish(unpacked(total), y, loss, classes=classes, sample_weight=weight)
    if loss.reduction == "none":
        with np.errstate(all="ignore"):  # a number may be out of range for the rows' dtype
            return (value.astype(dtype_of_rows),)
    return (as_chunk(value, len(shape)),)


def gradient_of_chunk(
    z: Any,
    y: Any,
    part: Any,
    total: Any,
    weight: Any,
    where: Any,
    denominator: Any,
    slices: Any,
    loss: Any,
    classes: int,
    located: Located,
) -> Any:
    if not denominator:
        return no_gradient(z)
    with in_whole(slices, located):
        return sharded.gradient(
            z,
            y,
            slices[loss.axis].start,
            unpacked(part[..., 0, :]),
            unpacked(total),
            loss,
            classes=classes,
            where=where,
            sample_weight=weight,
            grad_output=1.0 / float(denominator),
        )


def token_log_probs_of_total(
    total: Any,
    y: Any,
    weight: Any,
    slices: Any,
    loss: Any,
    classes: int,
    dtype_of_rows: Any,
    located: Located,
) -> tuple[Any, ...]:
    losses, lse = Rows(unpacked(total[..., :3]), y, loss, classes).losses()
    with np.errstate(all="ignore"):  # a number may be out of range for the rows' dtype
        log_prob, lse = (x.astype(dtype_of_rows).reshape(y.shape) for x in (-losses, lse))
    return log_prob, lse, total[..., 3].astype(np.int64)
