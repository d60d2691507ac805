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

from __future__ import annotations

from typing import Any

import numpy as np

from fastce.dask import _tasks as tasks
from fastce.dask._graph import DaskArray, Graph
from fastce.losses import SoftmaxCrossEntropy
from fastce.softmax import TokenLogProbs

__all__ = ["token_log_probs", "value", "value_and_grad"]


def value(
    loss: Any,
    logits: DaskArray,
    target: Any,
    *,
    sample_weight: Any = None,
    where: Any = None,
    normalizer: Any = None,
) -> DaskArray:
    """Return what ``loss(logits, target, ...)`` is, lazily.

    Parameters
    ----------
    loss : SoftmaxCrossEntropy, SoftmaxFocalLoss, BCEWithLogits or SigmoidFocalLoss
        What the loss is.
    logits : dask array
        Of any chunks. Chunks that split the class axis need class labels as target.
    target : dask array or array_like
        As for the loss; rechunked as the logits are, if it is not.
    sample_weight : dask array or array_like, optional
        Finite; broadcasts as for the loss. Weights may be negative; those of a mean must have a
        positive sum.
    where : dask array or array_like of bool, optional
        Broadcasts to the logits, and masks classes or elements as for the loss.
    normalizer : float > 0 or dask array of no axes, optional
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
        A label, weight or probability is out of range, or the weights of a mean have no positive
        sum: when that is computed. A position is that in the whole array.

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
    """Return what ``loss.value_and_grad(logits, target, ...)`` is, lazily.

    The gradient of a mean waits for its denominator, and so for all of the target and the weights,
    though for none of the logits. Where they are made in one with the logits, pass `normalizer`, or
    the logits will be kept, or made twice.

    Parameters
    ----------
    loss, logits, target, sample_weight, where, normalizer
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
    return Graph(loss, logits, target, sample_weight, where, normalizer).value_and_grad()


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
    graph = Graph(loss, logits, target, probabilities=False)
    if graph.is_split:
        found = graph.on_rows(
            tasks.token_log_probs_of_total, graph.merged(graph.parts(argmax=True))
        )
    else:
        found = graph.on_chunks(tasks.token_log_probs_of_rows)
    dtypes = (graph.real, graph.real, np.dtype(np.int64))
    return TokenLogProbs(*(graph.rows_of(found, i, dtype) for i, dtype in enumerate(dtypes)))
