"""From rows to evaluations, in one pass over the logits, block by block."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce._call import checks, checks_evaluation, variants
from fastce._call.layout import Array
from fastce.evaluation._evaluation import Evaluation

BLOCK_ROWS = 1 << 14  # rows whose statistics are held at once, in 1 MB. With 10 classes a row takes
# 54 ns, and 52 ns with four times as many rows (`python -m bench.evaluation`).


class Options(NamedTuple):
    """The options of an evaluation, whose class axis is the last."""

    ignore_index: int
    bins: int
    max_rank: int

    def kernel(self, temperature: float) -> Any:
        return variants.core.SoftmaxKernel(
            "cross_entropy",
            ignore_index=self.ignore_index,
            logit_scale=1 / temperature,
        )


def evaluate(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    ignore_index: int = -100,
    temperature: float = 1.0,
    bins: int = 15,
    max_rank: int = 100,
) -> Evaluation:
    """Evaluate how well the softmax of the logits predicts the targets.

    The logits are read once and in place, even from memory-mapped files. No temporary of their size
    is allocated, only a few numbers per row, for 16,384 rows at a time.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any shape and strides.
    target : array_like of integers
        With the logits' shape without the class axis, each in [0, K) or `ignore_index`.
    axis : int, default -1
        The axis of the classes.
    ignore_index : int, default -100
        Rows with this label do not count. Their logits are not used.
    temperature : float > 0, default 1.0
        Divides the logits as they are read; see `fit_temperature`.
    bins : int, default 15
        The number of bins of equal width for the largest probability of a row.
    max_rank : int, default 100
        The largest number of classes before the target that is counted separately, and the
        largest k of top-k accuracy.

    Returns
    -------
    Evaluation

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    IndexError
        A label is neither in [0, K) nor `ignore_index`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.evaluation import evaluate
    >>> logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]))
    >>> result = evaluate(logits, [0, 2])
    >>> print(round(result.perplexity, 6), result.accuracy, round(result.brier, 6))
    4.0 0.5 0.859375
    """
    z, y, options = checked(logits, target, axis, ignore_index, bins, max_rank)
    return read(z, y, options, checks_evaluation.temperature(temperature))


def checked(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    axis: int,
    ignore_index: int,
    bins: int,
    max_rank: int,
) -> tuple[Array, Array, Options]:
    """Check all arguments of a call, including every label."""
    z = checks.logits(logits)
    last = checks.class_axis(z, checks.axis(axis))
    y, _ = checks.softmax_target(target, z, last, probabilities=False)
    options = Options(
        checks.integer("ignore_index", ignore_index),
        checks_evaluation.count("bins", bins),
        checks_evaluation.count("max_rank", max_rank),
    )
    z = np.moveaxis(z, last, -1)
    options.kernel(1.0).weigh(z, y)
    return z, y, options


def read(
    z: Array, y: Array, options: Options, temperature: float, *, double_precision: bool = False
) -> Evaluation:
    """Evaluate checked arrays, the class axis last."""
    kernel = options.kernel(temperature)

    def evaluations() -> Iterator[Evaluation]:
        for logits, target in blocks(z, y):
            found = kernel.read_tokens(
                logits, target, statistics=True, double_precision=double_precision, checked=True
            )
            yield evaluation_of(target, *found, options=options)

    return functools.reduce(operator.add, evaluations())


def blocks(z: Array, y: Array) -> Iterator[tuple[Array, Array]]:
    """Yield views of up to BLOCK_ROWS rows."""
    if y.size <= BLOCK_ROWS:
        yield z, y
        return
    axis = next(i for i, size in enumerate(y.shape) if size > 1)
    step = max(BLOCK_ROWS * y.shape[axis] // y.size, 1)
    for start in range(0, y.shape[axis], step):
        part = (*[slice(None)] * axis, slice(start, start + step))
        yield from blocks(z[part], y[part])


@np.errstate(all="ignore")
def evaluation_of(
    target: Array, loss: Array, lse: Array, argmax: Array, statistics: Array, *, options: Options
) -> Evaluation:
    """Return the evaluation of some rows from the kernel's statistics."""
    counts = target != options.ignore_index
    rows = int(np.count_nonzero(counts))
    is_valid = counts & ~np.isnan(statistics[3])
    all_valid = bool(is_valid.all())
    target, loss, argmax, top_prob, entropy, other_squares, rank, variance = (
        x.ravel() if all_valid else x[is_valid] for x in (target, loss, argmax, *statistics)
    )
    invalid = rows - target.size
    slack = min(4 * float(np.finfo(loss.dtype).eps), 1 / (16 * options.bins))
    loss = loss.astype(np.float64, copy=False)
    is_top = argmax == target
    # With t and m the probabilities of the target and of the top class, Σ (p_j − δ_jt)² is (1 − t)²
    # plus the squares of all classes except the target. The kernel sums all except the top class.
    target_prob = np.exp(-loss)
    brier = np.expm1(-loss) ** 2 + other_squares
    brier += np.where(is_top, 0.0, (top_prob - target_prob) * (top_prob + target_prob))
    # A row whose probability is where a bin begins is in that bin, whatever its rounding errors.
    edges = np.arange(options.bins + 1) / options.bins * (1 - slack)
    which = np.minimum(np.searchsorted(edges, top_prob, side="right") - 1, options.bins - 1)
    before = np.minimum(rank, options.max_rank).astype(np.int64)
    rank_rows = np.bincount(before, minlength=options.max_rank + 1)
    rank_rows[-1] += invalid
    confidence = np.bincount(which, top_prob, options.bins)
    return Evaluation(
        rows=rows,
        ignored=counts.size - rows,
        invalid=invalid,
        correct=int(np.count_nonzero(is_top)),
        loss_sum=(float(loss.sum()), 0.0),
        entropy_sum=(float(entropy.sum()), 0.0),
        brier_sum=(float(brier.sum()), 0.0),
        variance_sum=(float(variance.sum()), 0.0),
        bin_rows=tuple(np.bincount(which, minlength=options.bins).tolist()),
        bin_correct=tuple(np.bincount(which[is_top], minlength=options.bins).tolist()),
        bin_confidence=tuple((x, 0.0) for x in confidence.tolist()),
        rank_rows=tuple(rank_rows.tolist()),
    )
