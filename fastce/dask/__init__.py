"""Lazy losses on Dask arrays with chunks over samples, over classes, or over both.

::

    import fastce.dask
    ce = fastce.SoftmaxCrossEntropy()
    loss, grad = fastce.dask.value_and_grad(ce, logits, target)   # dask arrays: nothing runs yet

If a chunk holds whole rows, a task is one call of the loss. If rows are split over chunks, each
chunk is summarised (see `fastce.sharded`), the summaries of a row of chunks are merged in a tree of
fixed shape, and each chunk computes its gradient from the result. No task holds more than one chunk
of the logits and its results, and every scheduler gives the same bits.

Set FASTCE_NUM_THREADS=1 in the environment of workers that run several tasks at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastce.dask import _tasks as tasks
from fastce.dask._graph import DaskArray, Graph
from fastce.losses import SoftmaxCrossEntropy
from fastce.softmax import TokenLogProbs

__all__ = ["evaluate", "token_log_probs", "value", "value_and_grad"]


def value(
    loss: Any,
    logits: DaskArray,
    target: Any,
    *,
    sample_weight: Any = None,
    where: Any = None,
    normalizer: Any = None,
) -> DaskArray:
    """Return ``loss(logits, target, ...)`` lazily.

    Parameters
    ----------
    loss : any loss of fastce
        The loss.
    logits : dask array
        Any chunks. If they split the class axis, the target must be class labels or, for a
        divergence, a teacher's logits.
    target : dask array or array_like
        As for the loss. It is rechunked to match the logits.
    sample_weight : dask array or array_like, optional
        Finite; broadcasts as for the loss. Weights may be negative, but the weights of a mean must
        have a positive sum.
    where : dask array or array_like of bool, optional
        Broadcasts to the logits, and masks classes or elements as for the loss.
    normalizer : float > 0 or 0-d dask array, optional
        Replaces the denominator of the mean.

    Returns
    -------
    dask array
        A 0-d float64 array. With ``reduction="none"``, the losses, chunked like the target.

    Raises
    ------
    TypeError, ValueError
        Immediately, if an argument has the wrong type or shape.
    IndexError, ValueError
        When it is computed, if a label, weight or probability is out of range, or the weights of a
        mean have no positive sum. The message states the position in the whole array.

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
    return Graph(loss, logits, target, sample_weight, where, normalizer).value()


def value_and_grad(
    loss: Any,
    logits: DaskArray,
    target: Any,
    *,
    sample_weight: Any = None,
    where: Any = None,
    normalizer: Any = None,
) -> tuple[DaskArray, DaskArray]:
    """Return ``loss.value_and_grad(logits, target, ...)`` lazily.

    The gradient of a mean needs the denominator first, and therefore the whole target and all
    weights, but not the logits. If target and logits come from the same computation, pass
    `normalizer`; otherwise the logits are kept in memory or computed twice.

    Parameters
    ----------
    loss, logits, target, sample_weight, where, normalizer
        As for `value`.

    Returns
    -------
    value : dask array
        As `value` returns it.
    grad : dask array
        With the shape, dtype and chunks of the logits, in native byte order.

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
    return Graph(loss, logits, target, sample_weight, where, normalizer).value_and_grad()


def evaluate(
    logits: DaskArray,
    target: Any,
    *,
    axis: int = -1,
    ignore_index: int = -100,
    temperature: float = 1.0,
    bins: int = 15,
    max_rank: int = 100,
) -> Any:
    """Return the result of `fastce.evaluation.evaluate` lazily: chunks are evaluated, then merged.

    Parameters
    ----------
    logits : dask array of float16, bfloat16, float32 or float64
        Any chunks; those that split the class axis are joined along it.
    target : dask array or array_like of integers
        Class labels in [0, K) or `ignore_index`, with the shape of the logits without the class
        axis.
    axis, ignore_index, temperature, bins, max_rank
        As for `fastce.evaluation.evaluate`.

    Returns
    -------
    dask.delayed.Delayed
        Its ``compute()`` returns the `Evaluation`.

    Raises
    ------
    TypeError, ValueError
        Immediately, if an argument has the wrong type or shape.
    IndexError
        When it is computed, if a label is neither in [0, K) nor `ignore_index`.

    Examples
    --------
    >>> import dask.array as da
    >>> import fastce.dask
    >>> result = fastce.dask.evaluate(da.eye(4, chunks=2) * 20, [0, 1, 2, 2])
    >>> round(result.compute().perplexity, 3)
    148.413
    """
    options = tasks.checked_options(axis, ignore_index, temperature, bins, max_rank)
    loss = SoftmaxCrossEntropy(ignore_index=ignore_index, axis=axis, reduction="none")
    graph = Graph(loss, logits, target, only_labels=True)
    if graph.is_split:
        graph = Graph(loss, logits.rechunk({graph.axis: -1}), target, only_labels=True)
    return graph.merged_evaluations(options)


def token_log_probs(logits: DaskArray, target: Any, *, axis: int = -1) -> TokenLogProbs:
    """Return the log-probability of the target, log-sum-exp and argmax of each row, lazily.

    Parameters
    ----------
    logits : dask array of float16, bfloat16, float32 or float64
        Any chunks.
    target : dask array or array_like of integers
        Class labels in [0, K), with the shape of the logits without the class axis.
    axis : int, default -1
        The axis of the classes.

    Returns
    -------
    TokenLogProbs
        Dask arrays, chunked like the rows of the logits.

    Raises
    ------
    TypeError, ValueError
        Immediately, if an argument has the wrong type or shape.
    IndexError
        When it is computed, if a label is not in [0, K).

    Examples
    --------
    >>> import dask.array as da
    >>> import fastce.dask
    >>> result = fastce.dask.token_log_probs(da.eye(4, chunks=2) * 20, [0, 1, 2, 3])
    >>> print(result.argmax.compute(), result.log_prob.compute())
    [0 1 2 3] [-6.18346085e-09 -6.18346085e-09 -6.18346085e-09 -6.18346085e-09]
    """
    # Every label must be a class, so the ignored label is one that no row has.
    loss = SoftmaxCrossEntropy(ignore_index=np.iinfo(np.int64).min, axis=axis, reduction="none")
    graph = Graph(loss, logits, target, only_labels=True)
    if graph.is_split:
        found = graph.on_rows(
            tasks.token_log_probs_of_total, graph.merged(graph.parts(argmax=True))
        )
    else:
        found = graph.on_chunks(tasks.token_log_probs_of_rows)
    dtypes = (graph.real, graph.real, np.dtype(np.int64))
    return TokenLogProbs(*(graph.rows_of(found, i, dtype) for i, dtype in enumerate(dtypes)))
