"""The tasks of `dask`'s graphs: what is done to one chunk, or to the summaries of a row of chunks.

They take and give NumPy arrays, or tuples of them, and are pickled by name. Their `loss` is the sum
over the chunk, or the losses themselves: what they are divided by is the graph's business.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from fastce import sharded
from fastce.softmax import token_log_probs


def one(size: int) -> int:
    return 1


def unchanged(array: Any, axis: Any, keepdims: bool) -> Any:
    return array


def first(results: Any, axis: Any, keepdims: bool) -> Any:
    return results[0]


def pick(results: Any, i: int, axis: int | None = None) -> Any:
    return results[i] if axis is None else np.expand_dims(results[i], axis)


def quotient(total: Any, denominator: Any) -> Any:
    """The mean of no weight is NaN."""
    return np.asarray(float(total) / float(denominator) if denominator else math.nan)


def of_chunk(loss: Any, pos_weight: Any) -> Any:
    return loss if pos_weight is None else replace(loss, pos_weight=pos_weight)


def as_chunk(value: Any, ndim: int) -> Any:
    """Return a sum as the one element of a chunk, and losses as they are."""
    return value if isinstance(value, np.ndarray) else np.full((1,) * ndim, value)


def value_of_chunk(
    z: Any, y: Any, weight: Any, denominator: Any, pos_weight: Any, loss: Any
) -> tuple[Any, ...]:
    return (as_chunk(of_chunk(loss, pos_weight)(z, y, sample_weight=weight), z.ndim),)


def value_and_grad_of_chunk(
    z: Any, y: Any, weight: Any, denominator: Any, pos_weight: Any, loss: Any
) -> tuple[Any, ...]:
    if not denominator:
        return np.zeros((1,) * z.ndim), np.zeros_like(z)
    value, grad = of_chunk(loss, pos_weight).value_and_grad(
        z, y, sample_weight=weight, grad_output=1.0 / float(denominator)
    )
    return as_chunk(value, z.ndim), grad


def weight_of_chunk(y: Any, weight: Any, loss: Any, classes: int) -> Any:
    total = sharded.total_weight(y, loss, classes=classes, sample_weight=weight)
    return np.full((1,) * y.ndim, total)


def token_log_probs_of_chunk(
    z: Any, y: Any, weight: Any, denominator: Any, pos_weight: Any, loss: Any
) -> tuple[Any, ...]:
    return token_log_probs(z, y, axis=loss.axis)


def summarise_chunk(z: Any, y: Any, first_class: Any, loss: Any, classes: int, argmax: bool) -> Any:
    first = int(first_class[0])
    packed = sharded.summarise(z, y, first, loss, classes=classes).packed()
    if argmax:
        packed = np.concatenate([packed, [first + np.argmax(z, axis=loss.axis)]])
    return np.moveaxis(packed, 0, -1)[..., None, :]


def merge_along(parts: Any, axis: Any, keepdims: bool) -> Any:
    """Merge summaries in their order along an axis, and with them what argmax there is."""
    parts = np.moveaxis(parts, (axis[0], -1), (0, 1))  # (chunks, numbers, rows...)
    merged = functools.reduce(merge, parts)
    merged = np.moveaxis(merged, 0, -1)
    return np.expand_dims(merged, axis) if keepdims else merged


def merge(a: Any, b: Any) -> Any:
    count = 3 + 2 * (len(a) > 4)
    merged = sharded.merge(sharded.Summary(*a[:count]), sharded.Summary(*b[:count])).packed()
    argmax = np.where(a[:1] >= b[:1], a[count:], b[count:])
    return np.concatenate([merged, argmax])


def unpacked(packed: Any) -> sharded.Summary:
    return sharded.Summary(*np.moveaxis(packed, -1, 0))


def finish(
    total: Any, y: Any, weight: Any, loss: Any, classes: int, dtype_of_rows: Any
) -> tuple[Any, ...]:
    value = sharded.finish(unpacked(total), y, loss, classes=classes, sample_weight=weight)
    if loss.reduction == "none":
        return (value.astype(dtype_of_rows),)
    return (as_chunk(value, y.ndim),)


def gradient_of_chunk(
    z: Any,
    y: Any,
    first_class: Any,
    part: Any,
    total: Any,
    weight: Any,
    denominator: Any,
    loss: Any,
    classes: int,
) -> Any:
    if not denominator:
        return np.zeros_like(z)
    return sharded.gradient(
        z,
        y,
        int(first_class[0]),
        unpacked(part[..., 0, :]),
        unpacked(total),
        loss,
        classes=classes,
        sample_weight=weight,
        grad_output=1.0 / float(denominator),
    )


def token_log_probs_of_total(
    total: Any, y: Any, weight: Any, loss: Any, classes: int, dtype_of_rows: Any
) -> tuple[Any, ...]:
    summary = unpacked(total[..., :3])
    loss_of_rows = sharded.finish(summary, y, loss, classes=classes)
    with np.errstate(all="ignore"):
        m, others = summary.maximum, summary.others
        lse = m + np.log1p(others + (m - m))  # NaN where a row has no finite maximum
    argmax = total[..., 3].astype(np.int64)
    return -loss_of_rows.astype(dtype_of_rows), lse.astype(dtype_of_rows), argmax
