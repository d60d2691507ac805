"""The losses on dask arrays that are chunked over samples, over classes, or over both: lazily.

::

    import fastce.dask
    ce = fastce.SoftmaxCrossEntropy()
    loss, grad = fastce.dask.value_and_grad(ce, logits, target)   # dask arrays: nothing runs yet

Where a chunk holds whole rows, a task is one call of the loss. Where rows are split over chunks,
each chunk is summarised (see `fastce.sharded`), the summaries of a row of chunks are merged in a
tree of fixed shape, and each chunk gets its gradient from the result. So no task holds more than a
chunk of the logits and what it makes of it, and every scheduler gives the same bits.

A worker that runs several tasks at once wants FASTCE_NUM_THREADS=1 in its environment.
"""

# mypy: allow-untyped-calls
# (dask has annotations, but not on all that is called here)

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from fastce import _checks, _checks_bridges, sharded
from fastce._evaluate import working_type
from fastce.losses import SoftmaxCrossEntropy
from fastce.softmax import TokenLogProbs
from fastce.softmax import token_log_probs as _token_log_probs

try:
    import dask.array as da
except ImportError as error:
    _checks_bridges.missing_host("dask.array", "dask", error)

__all__ = ["token_log_probs", "value", "value_and_grad"]

DaskArray = Any  # dask is not typed


def value(
    loss: Any,
    logits: DaskArray,
    target: Any,
    *,
    sample_weight: Any = None,
    normalizer: float | None = None,
) -> DaskArray:
    """Return what ``loss(logits, target, ...)`` is, lazily.

    Parameters
    ----------
    loss : SoftmaxCrossEntropy, SoftmaxFocalLoss, BCEWithLogits or SigmoidFocalLoss
        What the loss is.
    logits : dask array
        Of any chunks. Chunks that split the class axis need class labels as target.
    target : dask array or array_like
        As for the loss; chunked as the logits are, if it is not.
    sample_weight : dask array or array_like, optional
        Finite, at least 0; broadcasts as for the loss.
    normalizer : float > 0, optional
        Replaces the mean's denominator.

    Returns
    -------
    dask array
        Of float64 and no dimension; with ``reduction="none"`` the losses, chunked like the target.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit: at once.
    IndexError, ValueError
        A label, weight or probability is out of range: when that is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastce.dask
    >>> logits = da.zeros((6, 4), chunks=(2, 3))
    >>> target = da.arange(6, chunks=2) % 4
    >>> loss = fastce.dask.value(fastce.SoftmaxCrossEntropy(), logits, target)
    >>> round(float(loss.compute()), 6)
    1.386294
    """
    return _Graph(loss, logits, target, sample_weight, normalizer).value()


def value_and_grad(
    loss: Any,
    logits: DaskArray,
    target: Any,
    *,
    sample_weight: Any = None,
    normalizer: float | None = None,
) -> tuple[DaskArray, DaskArray]:
    """Return what ``loss.value_and_grad(logits, target, ...)`` is, lazily.

    The gradient of a mean waits for its denominator, and so for all of the target and the weights,
    though for none of the logits. Where they are made in one with the logits, pass `normalizer`, or
    the logits will be kept, or made twice.

    Parameters
    ----------
    loss, logits, target, sample_weight, normalizer
        As for `value`.

    Returns
    -------
    value : dask array
        As `value` returns it.
    grad : dask array
        Of the logits' shape, dtype and chunks.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `value`.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastce.dask
    >>> logits = da.zeros((6, 4), chunks=(2, 3))
    >>> loss, grad = fastce.dask.value_and_grad(fastce.SoftmaxCrossEntropy(), logits, [0] * 6)
    >>> grad.chunks
    ((2, 2, 2), (3, 1))
    >>> print(grad[0].compute() * 24)
    [-3.  1.  1.  1.]
    """
    return _Graph(loss, logits, target, sample_weight, normalizer).value_and_grad()


def token_log_probs(logits: DaskArray, target: Any, *, axis: int = -1) -> TokenLogProbs:
    """Return log-probability of the target, log-sum-exp and argmax of each row, lazily.

    Parameters
    ----------
    logits : dask array of float16, bfloat16, float32 or float64
        Of any chunks.
    target : dask array or array_like of integers
        Of the logits' shape less the class axis, in [0, K).
    axis : int, default -1
        The axis of the classes.

    Returns
    -------
    TokenLogProbs
        Of dask arrays, chunked like the rows of the logits.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit: at once.
    IndexError
        A label is not in [0, K): when that is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastce.dask
    >>> result = fastce.dask.token_log_probs(da.eye(4, chunks=2) * 20, [0, 1, 2, 3])
    >>> print(result.argmax.compute(), result.log_prob.compute())
    [0 1 2 3] [-6.18346085e-09 -6.18346085e-09 -6.18346085e-09 -6.18346085e-09]
    """
    # Every label is to be a class: the one that is ignored is none that a row has.
    loss = SoftmaxCrossEntropy(ignore_index=np.iinfo(np.int64).min, axis=axis, reduction="none")
    graph = _Graph(loss, logits, target, None, None, probabilities=False)
    dtypes = (graph.real, graph.real, np.dtype(np.int64))
    if graph.is_split:
        found = graph.on_rows(_token_log_probs_of_total, graph.merged(graph.parts(argmax=True)))
        return TokenLogProbs(*(graph.rows_of(found, i, dtype) for i, dtype in enumerate(dtypes)))
    found = graph.on_chunks(_token_log_probs_of_chunk)
    return TokenLogProbs(*(graph.rows_of(found, i, dtype) for i, dtype in enumerate(dtypes)))


# The graph ----------------------------------------------------------------------------------------


class _Graph:
    """The arguments of one call, aligned chunk by chunk, and the layers that are made of them.

    A layer names the axes of its arrays by numbers: those of the logits by their own, `fields` for
    that of a summary.
    """

    def __init__(
        self,
        loss: Any,
        logits: DaskArray,
        target: Any,
        sample_weight: Any,
        normalizer: float | None,
        probabilities: bool = True,
    ) -> None:
        self.loss, self.logits = loss, logits
        _checks_bridges.dask_logits(logits, da.Array)
        z = _checks.logits(_stand_in(logits))
        self.real = working_type(z)
        self.axes = tuple(range(z.ndim))
        self.fields = z.ndim
        target = target if isinstance(target, da.Array) else np.asarray(target)
        self.rows = self.axes
        self.is_split = False
        labels = False
        if hasattr(loss, "class_weight_name"):
            probabilities = probabilities and loss.takes_probabilities
            self.axis = _checks.class_axis(z, loss.axis)
            self.rows = self.axes[: self.axis] + self.axes[self.axis + 1 :]
            _, labels = _checks.softmax_target(
                _stand_in(target), z, self.axis, probabilities=probabilities
            )
            _checks.weights_fit(loss.class_weight_name, loss.class_weight, z.shape[self.axis])
            self.is_split = logits.numblocks[self.axis] > 1
            _checks_bridges.dask_target(labels, self.is_split)
        else:
            _checks.sigmoid_target(_stand_in(target), z)
            pos_weight = getattr(loss, "pos_weight", None)
            if pos_weight is not None:
                _checks.pos_weight(pos_weight, z.shape)
        self.has_labels = labels
        self.target_axes = self.rows if labels else self.axes
        self.target = self._aligned(target, self.target_axes)
        self.sample_weight = None
        if sample_weight is not None:
            weight = (
                sample_weight if isinstance(sample_weight, da.Array) else np.asarray(sample_weight)
            )
            shape = tuple(z.shape[i] for i in self.rows)
            _checks.sample_weight(_stand_in(weight), shape)
            self.sample_weight = self._aligned(
                da.broadcast_to(da.asarray(weight), shape), self.rows
            )
        self.normalizer = _checks.normalizer(normalizer)

    def _aligned(self, array: Any, axes: tuple[int, ...]) -> DaskArray:
        """Return an array of the sizes of some axes of the logits in their chunks."""
        chunks = tuple(self.logits.chunks[i] for i in axes)
        return (
            array.rechunk(chunks) if isinstance(array, da.Array) else da.from_array(array, chunks)
        )

    # What is computed -------------------------------------------------------------------------

    def value(self) -> DaskArray:
        if self.is_split:
            return self._reduced(self.on_rows(_finish, self.merged(self.parts())))
        return self._reduced(self.on_chunks(_value_of_chunk))

    def value_and_grad(self) -> tuple[DaskArray, DaskArray]:
        dtype = self.logits.dtype
        if not self.is_split:
            both = self.on_chunks(_value_and_grad_of_chunk, self._denominator())
            grad = da.map_blocks(_pick, both, 1, dtype=dtype, meta=_nothing(both.ndim, dtype))
            return self._reduced(both), grad
        parts = self.parts()
        total = self.merged(parts)
        grad = da.blockwise(
            _gradient_of_chunk,
            self.axes,
            *(self.logits, self.axes),
            *(self.target, self.rows),
            *(self.first_classes(), (self.axis,)),
            *(parts, (*self.rows, self.axis, self.fields)),
            *(total, (*self.rows, self.fields)),
            *self._optional(self.sample_weight, self.rows),
            *self._optional(self._denominator(), ()),
            loss=self.loss,
            classes=self.classes,
            concatenate=True,
            align_arrays=False,
            dtype=dtype,
            meta=_nothing(len(self.axes), dtype),
        )
        return self._reduced(self.on_rows(_finish, total)), grad

    def _denominator(self) -> Any:
        """Return what the sum is divided by: a float, or a dask array of no dimension."""
        if self.loss.reduction != "mean":
            return 1.0
        if self.normalizer is not None:
            return self.normalizer
        if not self.has_labels:
            if self.sample_weight is None:
                return float(math.prod(self.logits.shape[i] for i in self.rows))
            return self.sample_weight.sum(dtype=np.float64)
        weights = da.blockwise(
            _weight_of_chunk,
            self.rows,
            *(self.target, self.rows),
            *self._optional(self.sample_weight, self.rows),
            loss=self.loss,
            classes=self.classes,
            adjust_chunks=dict.fromkeys(self.rows, _one),
            dtype=np.float64,
            meta=_nothing(len(self.rows)),
        )
        return weights.sum()

    def _reduced(self, results: DaskArray) -> DaskArray:
        """Return the loss from an array whose chunks hold tuples of which it is the first."""
        if self.loss.reduction == "none":
            return self.rows_of(results, 0, self.real)
        chunks = tuple((1,) * count for count in results.numblocks)
        meta = _nothing(results.ndim)
        sums = da.map_blocks(_pick, results, 0, chunks=chunks, dtype=np.float64, meta=meta)
        total = sums.sum()
        if self.loss.reduction == "sum":
            return total
        denominator = self._optional(self._denominator(), ())
        return da.blockwise(
            _quotient, (), total, (), *denominator, dtype=np.float64, meta=_nothing(0)
        )

    # Layers -----------------------------------------------------------------------------------

    def on_chunks(self, function: Any, denominator: Any = 1.0) -> DaskArray:
        """Apply a function that gives a tuple to each chunk, which holds whole rows."""
        return da.blockwise(
            function,
            self.axes,
            *(self.logits, self.axes),
            *(self.target, self.target_axes),
            *self._optional(self.sample_weight, self.rows),
            *self._optional(denominator, ()),
            *self._pos_weight(),
            loss=self.loss,
            concatenate=True,
            align_arrays=False,
            dtype=self.logits.dtype,
            meta=_nothing(len(self.axes), self.logits.dtype),
        )

    def _pos_weight(self) -> tuple[Any, Any]:
        """Return the pos_weight that each chunk broadcasts, as an argument of a layer."""
        weight = getattr(self.loss, "pos_weight", None)
        if weight is None or weight.ndim == 0:
            return None, None
        axes = self.axes[len(self.axes) - weight.ndim :]
        sizes = zip(weight.shape, axes, strict=True)
        chunks = tuple((1,) if size == 1 else self.logits.chunks[i] for size, i in sizes)
        return da.from_array(weight, chunks), axes

    def on_rows(self, function: Any, total: DaskArray) -> DaskArray:
        """Apply a function that gives a tuple to each chunk of summaries of whole rows."""
        return da.blockwise(
            function,
            self.rows,
            *(total, (*self.rows, self.fields)),
            *(self.target, self.rows),
            *self._optional(self.sample_weight, self.rows),
            loss=self.loss,
            classes=self.classes,
            dtype_of_rows=self.real,
            concatenate=True,
            align_arrays=False,
            dtype=self.real,
            meta=_nothing(len(self.rows), self.real),
        )

    def rows_of(self, results: DaskArray, i: int, dtype: Any) -> DaskArray:
        """Return the i-th of the tuples that the chunks hold: one number a row."""
        if results.ndim == len(self.rows):
            return da.map_blocks(_pick, results, i, dtype=dtype, meta=_nothing(results.ndim, dtype))
        chunks = list(results.chunks)
        chunks[self.axis] = (1,)
        picked = da.map_blocks(
            _pick,
            results,
            i,
            self.axis,
            chunks=chunks,
            dtype=dtype,
            meta=_nothing(len(chunks), dtype),
        )
        return da.squeeze(picked, axis=self.axis)

    def parts(self, argmax: bool = False) -> DaskArray:
        """Return the summaries of all chunks: (rows..., chunks of classes, numbers)."""
        count = 5 if getattr(self.loss, "label_smoothing", 0.0) else 3
        return da.blockwise(
            _summarise_chunk,
            (*self.rows, self.axis, self.fields),
            *(self.logits, self.axes),
            *(self.target, self.rows),
            *(self.first_classes(), (self.axis,)),
            loss=self.loss,
            classes=self.classes,
            argmax=argmax,
            new_axes={self.fields: count + argmax},
            adjust_chunks={self.axis: _one},
            align_arrays=False,
            dtype=np.float64,
            meta=_nothing(len(self.axes) + 1),
        )

    def merged(self, parts: DaskArray) -> DaskArray:
        """Return the summaries of whole rows: (rows..., numbers)."""
        return da.reduction(
            parts,
            _unchanged,
            _merge_along,
            combine=_merge_along,
            axis=len(self.rows),
            split_every=MERGED_AT_ONCE,
            dtype=np.float64,
            meta=_nothing(len(self.rows) + 1),
        )

    @property
    def classes(self) -> int:
        return int(self.logits.shape[self.axis])

    def first_classes(self) -> DaskArray:
        sizes = self.logits.chunks[self.axis]
        return da.from_array(np.cumsum((0, *sizes[:-1])), chunks=1)

    @staticmethod
    def _optional(array: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
        """Return an argument of a layer that is an array or a constant."""
        return (array, axes) if isinstance(array, da.Array) else (array, None)


# Summaries of as many chunks of a row are merged by one task.
MERGED_AT_ONCE = 8


def _stand_in(array: Any) -> Any:
    """Return an array of the same shape and dtype that takes no memory, to be checked."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _nothing(ndim: int, dtype: Any = np.float64) -> Any:
    return np.empty((0,) * ndim, dtype)


# The tasks ----------------------------------------------------------------------------------------


def _one(size: int) -> int:
    return 1


def _unchanged(array: Any, axis: Any, keepdims: bool) -> Any:
    return array


def _pick(results: Any, i: int, axis: int | None = None) -> Any:
    return results[i] if axis is None else np.expand_dims(results[i], axis)


def _quotient(total: Any, denominator: Any) -> Any:
    """The mean of no weight is NaN."""
    return np.asarray(float(total) / float(denominator) if denominator else math.nan)


def _without_mean(loss: Any, **options: Any) -> Any:
    return replace(loss, reduction="none" if loss.reduction == "none" else "sum", **options)


def _of_chunk(loss: Any, pos_weight: Any) -> Any:
    return _without_mean(loss) if pos_weight is None else _without_mean(loss, pos_weight=pos_weight)


def _as_chunk(value: Any, ndim: int) -> Any:
    """Return a sum as the one element of a chunk, and losses as they are."""
    return value if isinstance(value, np.ndarray) else np.full((1,) * ndim, value)


def _value_of_chunk(
    z: Any, y: Any, weight: Any, denominator: Any, pos_weight: Any, loss: Any
) -> tuple[Any, ...]:
    return (_as_chunk(_of_chunk(loss, pos_weight)(z, y, sample_weight=weight), z.ndim),)


def _value_and_grad_of_chunk(
    z: Any, y: Any, weight: Any, denominator: Any, pos_weight: Any, loss: Any
) -> tuple[Any, ...]:
    if not denominator:
        return np.zeros((1,) * z.ndim), np.zeros_like(z)
    value, grad = _of_chunk(loss, pos_weight).value_and_grad(
        z, y, sample_weight=weight, grad_output=1.0 / float(denominator)
    )
    return _as_chunk(value, z.ndim), grad


def _weight_of_chunk(y: Any, weight: Any, loss: Any, classes: int) -> Any:
    total = sharded.total_weight(y, loss, classes=classes, sample_weight=weight)
    return np.full((1,) * y.ndim, total)


def _token_log_probs_of_chunk(
    z: Any, y: Any, weight: Any, denominator: Any, pos_weight: Any, loss: Any
) -> tuple[Any, ...]:
    return _token_log_probs(z, y, axis=loss.axis)


def _summarise_chunk(
    z: Any, y: Any, first_class: Any, loss: Any, classes: int, argmax: bool
) -> Any:
    first = int(first_class[0])
    packed = sharded.summarise(z, y, first, loss, classes=classes).packed()
    if argmax:
        packed = np.concatenate([packed, [first + np.argmax(z, axis=loss.axis)]])
    return np.moveaxis(packed, 0, -1)[..., None, :]


def _merge_along(parts: Any, axis: Any, keepdims: bool) -> Any:
    """Merge summaries in their order along an axis, and with them what argmax there is."""
    parts = np.moveaxis(parts, (axis[0], -1), (0, 1))  # (chunks, numbers, rows...)
    merged = functools.reduce(_merge, parts)
    merged = np.moveaxis(merged, 0, -1)
    return np.expand_dims(merged, axis) if keepdims else merged


def _merge(a: Any, b: Any) -> Any:
    count = 3 + 2 * (len(a) > 4)
    merged = sharded.merge(sharded.Summary(*a[:count]), sharded.Summary(*b[:count])).packed()
    argmax = np.where(a[:1] >= b[:1], a[count:], b[count:])
    return np.concatenate([merged, argmax])


def _summary(packed: Any) -> sharded.Summary:
    return sharded.Summary(*np.moveaxis(packed, -1, 0))


def _finish(
    total: Any, y: Any, weight: Any, loss: Any, classes: int, dtype_of_rows: Any
) -> tuple[Any, ...]:
    loss = _without_mean(loss)
    value = sharded.finish(_summary(total), y, loss, classes=classes, sample_weight=weight)
    if loss.reduction == "none":
        return (value.astype(dtype_of_rows),)
    return (_as_chunk(value, y.ndim),)


def _gradient_of_chunk(
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
        _summary(part[..., 0, :]),
        _summary(total),
        _without_mean(loss),
        classes=classes,
        sample_weight=weight,
        grad_output=1.0 / float(denominator),
    )


def _token_log_probs_of_total(
    total: Any, y: Any, weight: Any, loss: Any, classes: int, dtype_of_rows: Any
) -> tuple[Any, ...]:
    summary = _summary(total[..., :3])
    loss_of_rows = sharded.finish(summary, y, loss, classes=classes)
    with np.errstate(all="ignore"):
        m, others = summary.maximum, summary.others
        lse = m + np.log1p(others + (m - m))  # NaN where a row has no finite maximum
    argmax = total[..., 3].astype(np.int64)
    return -loss_of_rows.astype(dtype_of_rows), lse.astype(dtype_of_rows), argmax
