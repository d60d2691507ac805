"""The graphs of `fastce.dask`: the arrays of a call in aligned chunks, and layers made of them."""

# mypy: allow-untyped-calls
# (not everything in dask that is called here has annotations)

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from fastce import losses
from fastce._call import checks, checks_bridges, layout
from fastce._call.arguments import working_type
from fastce._call.elements import checked_elements
from fastce._call.rows import checked_rows
from fastce.dask import _tasks as tasks
from fastce.sharded._rows import numbers_of_a_summary

try:
    import dask.array as da
    from dask.layers import ArraySliceDep
except ImportError as error:
    checks_bridges.missing_host("dask.array", "dask", error)

DaskArray = Any  # dask is not typed
LOSSES = tuple(getattr(losses, name) for name in losses.__all__)
Argument = tuple[Any, Any]  # of a layer: an array and its axes, or a constant and None


class Graph:
    """The arguments of one call, with aligned chunks, and the layers that are made of them.

    A layer names the axes of its arrays by number: each axis of the logits by its index, and that
    of a summary by `fields`.
    """

    def __init__(
        self,
        loss: Any,
        logits: DaskArray,
        target: Any,
        sample_weight: Any = None,
        where: Any = None,
        normalizer: Any = None,
        only_labels: bool = False,
    ) -> None:
        checks_bridges.one_of_losses(loss, LOSSES)
        checks_bridges.dask_logits(logits, da.Array)
        target = _array("target", target)
        sample_weight = _array("sample_weight", sample_weight)
        where = _array("where", where)
        self.loss, self.logits = loss, logits
        self.loss_of_chunk = loss if loss.reduction == "none" else replace(loss, reduction="sum")
        given: list[Any] = [
            None if array is None else layout.stand_in(array.shape, array.dtype)
            for array in (logits, target, sample_weight, where)
        ]
        self.rows = self.axes = tuple(range(logits.ndim))
        self.fields = logits.ndim
        self.is_softmax = hasattr(loss, "axis")
        self.is_split = False
        self.has_labels = False
        self.option: str | None = None
        self.value_of_option: Argument = (None, None)
        if self.is_softmax:
            checked = checked_rows(loss, *given, only_labels=only_labels)
            self.axis, self.has_labels = checked.axis, checked.has_labels
            self.rows = self.axes[: self.axis] + self.axes[self.axis + 1 :]
            self.is_split = logits.numblocks[self.axis] > 1
            is_probabilities = not self.has_labels and not loss.takes_logits
            checks_bridges.dask_target(is_probabilities, self.is_split)
        else:
            checked_elements(loss, *given)
            self._take_array_option()
        self.real = working_type(logits)
        self.target = self._argument(target, self.rows if self.has_labels else self.axes)
        self.sample_weight = self._argument(sample_weight, self.rows)
        self.where = self._argument(where, self.axes)
        self.normalizer = self._normalizer(normalizer)

    def _take_array_option(self) -> None:
        """Separate an array option, which broadcasts to the logits, from the loss."""
        name = self.loss.element_weight_name
        value = getattr(self.loss, name)
        if isinstance(value, np.ndarray) and value.ndim:
            self.option, self.value_of_option = name, self._argument(value, self.axes)
            self.loss_of_chunk = replace(self.loss_of_chunk, **{name: None})

    def _argument(self, value: Any, axes: tuple[int, ...]) -> Argument:
        """Return an array that broadcasts to some axes of the logits, chunked like them."""
        if value is None:
            return None, None
        axes = axes[len(axes) - value.ndim :]
        chunks = tuple(
            self.logits.chunks[i] if size == self.logits.shape[i] else (1,)
            for size, i in zip(value.shape, axes, strict=True)
        )
        if isinstance(value, da.Array):
            return value.rechunk(chunks), axes
        return da.from_array(value, chunks), axes

    def _normalizer(self, value: Any) -> Any:
        """Return None, a float, or a 0-d dask array, which is checked when it is computed."""
        if not isinstance(value, da.Array):
            return checks.normalizer(value)
        checks_bridges.dask_scalar("normalizer", value.shape)
        return da.blockwise(tasks.normalizer, (), value, (), dtype=np.float64, meta=_nothing(0))

    # Results ----------------------------------------------------------------------------------

    def value(self) -> DaskArray:
        if self.is_split:
            return self._reduced(self.on_rows(tasks.finish, self.merged(self.parts())))
        return self._reduced(self.on_chunks(tasks.value))

    def value_and_grad(self) -> tuple[DaskArray, DaskArray]:
        dtype = self.logits.dtype.newbyteorder("=")
        if not self.is_split:
            both = self.on_chunks(tasks.value_and_grad, self._denominator)
            grad = da.map_blocks(tasks.pick, both, 1, dtype=dtype, meta=_nothing(both.ndim, dtype))
            return self._reduced(both), grad
        parts = self.parts()
        total = self.merged(parts)
        grad = da.blockwise(
            tasks.gradient_of_chunk,
            self.axes,
            *(self.logits, self.axes),
            *self.target,
            *(parts, (*self.rows, self.axis, self.fields)),
            *(total, (*self.rows, self.fields)),
            *self.sample_weight,
            *self.where,
            *self._denominator,
            *self._slices(self.axes),
            located=self._located(self.axes),
            loss=self.loss_of_chunk,
            classes=self.classes,
            concatenate=True,
            align_arrays=False,
            dtype=dtype,
            meta=_nothing(len(self.axes), dtype),
        )
        return self._reduced(self.on_rows(tasks.finish, total)), grad

    @functools.cached_property
    def _denominator(self) -> Argument:
        """The denominator: a float, or a 0-d dask array."""
        if self.loss.reduction != "mean":
            return 1.0, None
        if self.normalizer is not None:
            return self.normalizer, () if isinstance(self.normalizer, da.Array) else None
        factor = 1
        function: Any = tasks.weight_of_labels
        if self.has_labels:
            axes = self.rows
            arguments = *self.target, *self.sample_weight, *self._slices(axes)
            options: dict[str, Any] = {"loss": self.loss_of_chunk, "classes": self.classes}
        else:
            # Broadcast weights are added up once and multiplied.
            where = (None, None) if self.is_softmax else self.where
            given: list[Any] = [pair for pair in (self.sample_weight, where) if pair[1] is not None]
            if not given:
                return float(math.prod(self.logits.shape[i] for i in self.rows)), None
            axes = max((axes for _, axes in given), key=len)
            counted = {
                i for array, own in given for i, n in zip(own, array.shape, strict=True) if n != 1
            }
            factor = math.prod(self.logits.shape[i] for i in self.rows if i not in counted)
            function = tasks.weight_of_samples
            slices = self._slices(axes, set(axes) - counted)
            arguments = *self.sample_weight, *where, *slices
            options = {"ndim": len(axes)}
        parts = da.blockwise(
            function,
            (*axes, self.fields),
            *arguments,
            located=self._located(axes),
            **options,
            new_axes={self.fields: 2},
            adjust_chunks=dict.fromkeys(axes, tasks.one),
            align_arrays=False,
            dtype=np.float64,
            meta=_nothing(len(axes) + 1),
        )
        if axes:
            parts = _added(parts, tasks.unchanged, tasks.totals, len(axes), meta=_nothing(1))
        total = da.blockwise(
            tasks.denominator,
            (),
            *(parts, (self.fields,)),
            factor=factor,
            concatenate=True,
            dtype=np.float64,
            meta=_nothing(0),
        )
        return total, ()

    def _reduced(self, results: DaskArray) -> DaskArray:
        """Return the loss, given an array whose chunks hold tuples that begin with it."""
        if self.loss.reduction == "none":
            return self.rows_of(results, 0, self.real)
        # One task per chunk and few others: a task costs Dask as much time as megabytes of logits.
        total = _added(results, tasks.first, tasks.total, results.ndim)
        if self.loss.reduction == "sum":
            return total
        return da.blockwise(
            tasks.quotient, (), total, (), *self._denominator, dtype=np.float64, meta=_nothing(0)
        )

    def merged_evaluations(self, options: dict[str, Any]) -> Any:
        """Return the evaluation of all rows, as a delayed object."""
        function = functools.partial(tasks.evaluation_of_rows, options=options)
        chunks = self.on_chunks(functools.update_wrapper(function, tasks.evaluation_of_rows))
        merged = tasks.merged_evaluations
        total = _added(chunks, tasks.unchanged, merged, chunks.ndim, concatenate=False)
        return total.to_delayed().item()

    # Layers -----------------------------------------------------------------------------------

    def on_chunks(self, function: Any, denominator: Argument = (1.0, None)) -> DaskArray:
        """Apply a function that returns a tuple to each chunk of whole rows."""
        return da.blockwise(
            tasks.on_chunk,
            self.axes,
            *(self.logits, self.axes),
            *self.target,
            *self.sample_weight,
            *self.where,
            *self.value_of_option,
            *denominator,
            *self._slices(self.axes),
            function=function,
            located=self._located(self.axes),
            loss=self.loss_of_chunk,
            option=self.option,
            token=function.__name__,
            concatenate=True,
            align_arrays=False,
            dtype=self.logits.dtype,
            meta=_nothing(len(self.axes), self.logits.dtype),
        )

    def on_rows(self, function: Any, total: DaskArray) -> DaskArray:
        """Apply a function that returns a tuple to each chunk of summaries of whole rows."""
        return da.blockwise(
            function,
            self.rows,
            *(total, (*self.rows, self.fields)),
            *(self.target if self.has_labels else (None, None)),  # else only its shape counts
            *self.sample_weight,
            *self._slices(self.rows),
            located=self._located(self.rows),
            loss=self.loss_of_chunk,
            classes=self.classes,
            dtype_of_rows=self.real,
            concatenate=True,
            align_arrays=False,
            dtype=self.real,
            meta=_nothing(len(self.rows), self.real),
        )

    def _slices(self, axes: tuple[int, ...], broadcast: Any = ()) -> Argument:
        """Return an argument that gives a task its chunk's position; 0 along broadcast axes."""
        chunks = tuple((1,) if i in broadcast else self.logits.chunks[i] for i in axes)
        return ArraySliceDep(chunks), axes

    def _located(self, axes: tuple[int, ...]) -> dict[str, tuple[int | None, ...]]:
        """Return which of `_slices` belongs to which axis of an argument; None if it broadcasts."""
        located = {}
        for name in ("target", "sample_weight"):
            array, own_axes = getattr(self, name)
            if array is not None and (name != "target" or set(own_axes) <= set(axes)):
                located[name] = tuple(
                    axes.index(i) if n == self.logits.shape[i] else None
                    for i, n in zip(own_axes, array.shape, strict=True)
                )
        return located

    def rows_of(self, results: DaskArray, i: int, dtype: Any) -> DaskArray:
        """Return the i-th item of the tuples that the chunks hold: one number per row."""
        return da.blockwise(
            tasks.pick,
            self.rows,
            *(results, self.axes if results.ndim == len(self.axes) else self.rows),
            i=i,
            dtype=dtype,
            meta=_nothing(len(self.rows), dtype),
        )

    def parts(self, argmax: bool = False) -> DaskArray:
        """Return the summaries of all chunks: (rows..., chunks of classes, numbers)."""
        count = numbers_of_a_summary(self.loss, self.where[0] is not None)
        return da.blockwise(
            tasks.summarise_chunk,
            (*self.rows, self.axis, self.fields),
            *(self.logits, self.axes),
            *self.target,
            *self.where,
            *self._slices(self.axes),
            located=self._located(self.axes),
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


# The number of chunks of a row whose summaries are merged by one task.
MERGED_AT_ONCE = 8

# The number of chunks along an axis whose losses are added up by one task.
ADDED_AT_ONCE = 16


def _added(
    parts: DaskArray, of_chunk: Any, of_chunks: Any, ndim: int, *, meta: Any = None, **options: Any
) -> DaskArray:
    """Add up what is taken from each chunk, along the first ``ndim`` axes."""
    return da.reduction(
        parts,
        of_chunk,
        of_chunks,
        axis=tuple(range(ndim)),
        split_every=dict.fromkeys(range(ndim), ADDED_AT_ONCE),
        dtype=np.float64,
        meta=_nothing(0) if meta is None else meta,
        **options,
    )


def _array(name: str, value: Any) -> Any:
    """Return an argument as a NumPy or a dask array of known shape, or None."""
    if value is None and name != "target":
        return None
    if not isinstance(value, da.Array):
        array = checks.as_array(name, value)
        # An empty list has no type of its own.
        return array if array.size or not isinstance(value, list | tuple) else array.astype(int)
    checks_bridges.dask_array(name, value)
    return value


def _nothing(ndim: int, dtype: Any = np.float64) -> Any:
    return np.zeros((0,) * ndim, dtype)  # not empty: names depend on the number in a 0-d array
