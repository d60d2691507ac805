"""The graphs of `dask`: the chunks of one call's arrays aligned, and the layers made of them."""

# mypy: allow-untyped-calls
# (dask has annotations, but not on all that is called here)

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from fastce import _checks, _checks_bridges
from fastce import _dask_tasks as tasks
from fastce._evaluate import working_type

try:
    import dask.array as da
except ImportError as error:
    _checks_bridges.missing_host("dask.array", "dask", error)

DaskArray = Any  # dask is not typed


class Graph:
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
        self.loss_of_chunk = loss if loss.reduction == "none" else replace(loss, reduction="sum")
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
            return self._reduced(self.on_rows(tasks.finish, self.merged(self.parts())))
        return self._reduced(self.on_chunks(tasks.value_of_chunk))

    def value_and_grad(self) -> tuple[DaskArray, DaskArray]:
        dtype = self.logits.dtype
        if not self.is_split:
            both = self.on_chunks(tasks.value_and_grad_of_chunk, self._denominator())
            grad = da.map_blocks(tasks.pick, both, 1, dtype=dtype, meta=_nothing(both.ndim, dtype))
            return self._reduced(both), grad
        parts = self.parts()
        total = self.merged(parts)
        grad = da.blockwise(
            tasks.gradient_of_chunk,
            self.axes,
            *(self.logits, self.axes),
            *(self.target, self.rows),
            *(self.first_classes(), (self.axis,)),
            *(parts, (*self.rows, self.axis, self.fields)),
            *(total, (*self.rows, self.fields)),
            *self._optional(self.sample_weight, self.rows),
            *self._optional(self._denominator(), ()),
            loss=self.loss_of_chunk,
            classes=self.classes,
            concatenate=True,
            align_arrays=False,
            dtype=dtype,
            meta=_nothing(len(self.axes), dtype),
        )
        return self._reduced(self.on_rows(tasks.finish, total)), grad

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
            tasks.weight_of_chunk,
            self.rows,
            *(self.target, self.rows),
            *self._optional(self.sample_weight, self.rows),
            loss=self.loss_of_chunk,
            classes=self.classes,
            adjust_chunks=dict.fromkeys(self.rows, tasks.one),
            dtype=np.float64,
            meta=_nothing(len(self.rows)),
        )
        return weights.sum()

    def _reduced(self, results: DaskArray) -> DaskArray:
        """Return the loss from an array whose chunks hold tuples of which it is the first."""
        if self.loss.reduction == "none":
            return self.rows_of(results, 0, self.real)
        # One task a chunk and few more: each takes dask as long as megabytes of logits take us.
        total = da.reduction(
            results,
            tasks.first,
            np.sum,
            axis=tuple(range(results.ndim)),
            split_every=dict.fromkeys(range(results.ndim), ADDED_AT_ONCE),
            dtype=np.float64,
            meta=_nothing(0),
        )
        if self.loss.reduction == "sum":
            return total
        denominator = self._optional(self._denominator(), ())
        return da.blockwise(
            tasks.quotient, (), total, (), *denominator, dtype=np.float64, meta=_nothing(0)
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
            loss=self.loss_of_chunk,
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
            loss=self.loss_of_chunk,
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
            return da.map_blocks(
                tasks.pick, results, i, dtype=dtype, meta=_nothing(results.ndim, dtype)
            )
        chunks = list(results.chunks)
        chunks[self.axis] = (1,)
        picked = da.map_blocks(
            tasks.pick,
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
            tasks.summarise_chunk,
            (*self.rows, self.axis, self.fields),
            *(self.logits, self.axes),
            *(self.target, self.rows),
            *(self.first_classes(), (self.axis,)),
            loss=self.loss_of_chunk,
            classes=self.classes,
            argmax=argmax,
            new_axes={self.fields: count + argmax},
            adjust_chunks={self.axis: tasks.one},
            align_arrays=False,
            dtype=np.float64,
            meta=_nothing(len(self.axes) + 1),
        )

    def merged(self, parts: DaskArray) -> DaskArray:
        """Return the summaries of whole rows: (rows..., numbers)."""
        return da.reduction(
            parts,
            tasks.unchanged,
            tasks.merge_along,
            combine=tasks.merge_along,
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

# The losses of as many chunks along an axis are added up by one task.
ADDED_AT_ONCE = 16


def _stand_in(array: Any) -> Any:
    """Return an array of the same shape and dtype that takes no memory, to be checked."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _nothing(ndim: int, dtype: Any = np.float64) -> Any:
    return np.empty((0,) * ndim, dtype)
