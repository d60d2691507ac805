r"""Softmax losses whose classes are split across processes, with any means of communication.

A *shard* is the part of the classes that one process holds. A few numbers summarise the logits u of
a row in a shard, after scale and cap:

.. math:: m = \max_j u_j, \qquad A = \sum_j \exp(u_j − m) \text{ over all but one maximum,}

and the logit of the target, if the shard holds it. Two summaries are merged by

.. math:: (m_1, A_1) + (m_2, A_2) = (m_1,\; A_1 + (1 + A_2) \exp(m_2 − m_1)), \quad m_1 ≥ m_2

(−∞, −1) is the summary of a shard without classes. Merging is associative up to rounding. It is
accurate in the tail, because A is a sum of positive terms, and the loss is log1p(A), so that 1 + A
is never rounded. A confident, correct row therefore keeps its digits however it is split.

This is a training step on shards::

    part = summarise(logits, target, first_class, loss, classes=K)    # each shard, by itself
    summary = merge(part, part_of_another_shard)                      # over all the shards
    value = finish(summary, target, loss, classes=K)                  # any process
    grad = gradient(logits, target, first_class, part, summary, loss, classes=K)   # each shard

Only ``part.packed()`` has to be sent: three float64 numbers per row and shard, five with label
smoothing, six with label smoothing and a mask.

For `SoftmaxKLDivergence`, the target is the teacher's logits of the same classes, split in the same
way as the student's. The parts are of type `DivergenceSummary`: seven numbers per row and shard.
Let :math:`P_s` be the teacher's probability of the classes of shard s, and :math:`Q_s` the
student's. Parts are merged by the chain rule of the divergence,

.. math:: D = \sum_s P_s D_s + \sum_s P_s (\operatorname{expm1}(l_s) − l_s), \qquad
          l_s = \log Q_s − \log P_s

whose terms are all at least 0. So the merged divergence is never negative either, and stays
accurate if teacher and student are nearly equal.

References
----------
M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018 (merging of maxima and
sums).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce._call import checks, checks_bridges, variants
from fastce._call.arguments import handed_back
from fastce._call.layout import Array, new_like
from fastce.sharded._rows import Rows, Shard, SoftmaxLoss, weights_of_rows

__all__ = [
    "DivergenceSummary",
    "Summary",
    "finish",
    "gradient",
    "merge",
    "summarise",
    "total_weight",
]


class Summary(NamedTuple):
    """The summary of some classes of each row: float64 arrays with the shape of the target.

    ``Summary(*array)`` undoes ``array = summary.packed()``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import sharded
    >>> a = sharded.Summary(np.array([2.0]), np.array([1e-20]), np.array([2.0]))
    >>> sharded.Summary(*a.packed()) == a
    True
    """

    maximum: Array
    """m = max u; −inf without any class."""
    others: Array
    """Σ exp(u_j − m) over all classes except one maximum; −1 without any class."""
    target_logit: Array
    """u of the target; −inf if another shard holds it."""
    soft_mass: Array | None = None
    """With label smoothing ε, Σ t_c of these classes, t_c = w_c·ε/K."""
    soft_gap: Array | None = None
    """With label smoothing, Σ t_c (m − u_c)."""

    kept: Array | None = None
    """With label smoothing and `where`, the number of classes that are left in. Σ t_c is then over
    these classes, and t_c has to be multiplied by K / kept of the whole row."""

    def packed(self) -> Array:
        """Return the fields as one array to send.

        Its shape is (3, ...), with label smoothing (5, ...), with smoothing and `where` (6, ...).
        """
        return np.stack([field for field in self if field is not None])


class DivergenceSummary(NamedTuple):
    """The summary of some classes of each row, for a divergence: float64 arrays, one per row.

    T is the temperature; t are the teacher's logits of these classes, and z the student's.
    ``DivergenceSummary(*array)`` undoes ``array = summary.packed()``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> from fastce import sharded
    >>> student, teacher = np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]])
    >>> loss = fastce.SoftmaxKLDivergence()
    >>> part = sharded.summarise(student, teacher, 2, loss, classes=4)
    >>> print(part.teacher_sum, part.student_maximum, part.divergence)
    [2.] [3.] [0.43378083]
    """

    teacher_maximum: Array
    """max t / T; −inf without any class."""
    teacher_sum: Array
    """Σ exp((t_j − max t) / T); 0 without any class."""
    student_maximum: Array
    """max z / T."""
    student_sum: Array
    """Σ exp((z_j − max z) / T)."""
    log_ratio: Array
    """log Σ exp(z_j / T) − log Σ exp(t_j / T), rounded; 0 if one of the sums is 0."""
    log_ratio_low: Array
    """The rounding error of `log_ratio`, needed because the log-ratios of shards are subtracted."""
    divergence: Array
    """The divergence of the softmax of z / T from that of t / T, over these classes only."""

    def packed(self) -> Array:
        """Return the fields as one array to send, of shape (7, ...)."""
        return np.stack(self)


AnySummary = Summary | DivergenceSummary


def summarise(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    first_class: int,
    loss: SoftmaxLoss,
    *,
    classes: int,
    where: npt.ArrayLike | None = None,
) -> AnySummary:
    """Summarise the classes of one shard: the first step of a loss.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        The logits of the classes [first_class, first_class + n) of all rows, along ``loss.axis``. n
        may be 0.
    target : array_like
        Labels in [0, classes) or ``loss.ignore_index``, with the shape of the logits without the
        class axis. They are the same for every shard. For `SoftmaxKLDivergence`, the teacher's
        logits of the same classes, with the shape of the logits.
    first_class : int
        The class of the first logit of the shard.
    loss : SoftmaxCrossEntropy, SoftmaxFocalLoss or SoftmaxKLDivergence
        The loss. Its `weight` or `alpha` has entries for all classes.
    classes : int
        K, the number of classes of all shards together.
    where : array_like of bool, optional
        Broadcasts to the logits of the shard. False masks a class, as for the loss. With label
        smoothing, pass it for all shards or for none.

    Returns
    -------
    Summary or DivergenceSummary

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
    IndexError
        A label is neither a class nor ``loss.ignore_index``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> from fastce import sharded
    >>> loss = fastce.SoftmaxCrossEntropy()
    >>> part = sharded.summarise(np.array([[1.0, 5.0]]), [3], 2, loss, classes=4)
    >>> print(part.maximum, part.others, part.target_logit)
    [5.] [0.01831564] [5.]
    """
    shard = Shard(logits, target, first_class, loss, classes, where)
    fields = shard.statistics()
    return _summary_of(fields.reshape(len(fields), *shard.shape))


def _summary_of(fields: Any) -> AnySummary:
    return DivergenceSummary(*fields) if len(fields) == 7 else Summary(*fields)


def merge(a: AnySummary, b: AnySummary) -> AnySummary:
    """Return the summary of the classes of two shards.

    `fastce.sharded` has the formula. With label smoothing, the sum of t_c (m − u_c) also grows, by
    the sum of t_c times the increase of m.

    Parameters
    ----------
    a, b : Summary or DivergenceSummary
        Summaries of the same rows and of different classes.

    Returns
    -------
    Summary or DivergenceSummary
        ``merge(a, merge(b, c))`` and ``merge(merge(a, b), c)`` are equal up to rounding.

    Raises
    ------
    ValueError
        The summaries have different shapes, or belong to different losses.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import sharded
    >>> a = sharded.Summary(np.array([50.0]), np.array([0.0]), np.array([50.0]))
    >>> b = sharded.Summary(np.array([0.0]), np.array([1.0]), np.array([-np.inf]))
    >>> print(sharded.merge(a, b).others)
    [3.8574997e-22]
    """
    fields = checks_bridges.summary("a", a), checks_bridges.summary("b", b)
    checks_bridges.summaries_fit(*fields)
    if len(fields[0]) == 7:
        both = (np.array(of_shard, np.float64) for of_shard in fields)
        return DivergenceSummary(*variants.core.merge_divergences(*both))
    a, b = Summary(*fields[0]), Summary(*fields[1])
    with np.errstate(all="ignore"):
        maximum = np.maximum(a.maximum, b.maximum)
        a_fall, b_fall = _fall(maximum, a.maximum), _fall(maximum, b.maximum)
        # One of the differences is 0, so the larger sum is not rounded.
        a_leads = a.maximum >= b.maximum
        leading = np.where(a_leads, a.others, b.others)
        following = np.where(a_leads, b.others, a.others)
        others = leading + (1 + following) * np.exp(-np.maximum(a_fall, b_fall))
        target_logit = np.maximum(a.target_logit, b.target_logit)
        if a.soft_mass is None or b.soft_mass is None:
            return Summary(maximum, others, target_logit)
        a_gap = a.soft_gap + _times(a.soft_mass, a_fall)
        b_gap = b.soft_gap + _times(b.soft_mass, b_fall)
        mass = a.soft_mass + b.soft_mass
        kept = None if a.kept is None else a.kept + b.kept
        return Summary(maximum, others, target_logit, mass, a_gap + b_gap, kept)


def finish(
    summary: AnySummary,
    target: npt.ArrayLike,
    loss: SoftmaxLoss,
    *,
    classes: int,
    sample_weight: npt.ArrayLike | None = None,
    normalizer: float | None = None,
) -> Any:
    """Return the loss, given the summary of all classes.

    Parameters
    ----------
    summary : Summary or DivergenceSummary
        The merged summary of all shards.
    target : array_like
        As for `summarise`. For a teacher's logits, those of any shard: only their shape matters.
    loss, classes
        As for `summarise`.
    sample_weight : array_like, optional
        Finite; broadcasts to the shape of the target. Weights may be negative, but the weights of a
        mean must have a positive sum.
    normalizer : float > 0, optional
        Replaces the denominator of the mean. If each process has some of the rows, pass the
        denominator of all processes.

    Returns
    -------
    float or array
        The result of ``loss(logits, target, ...)`` for the whole rows. With ``reduction="none"``, a
        float64 array.

    Raises
    ------
    TypeError, IndexError
        As raised by `summarise`.
    ValueError
        The summary belongs to other rows or another loss, or a weight or the normalizer does not
        fit.

    Examples
    --------
    >>> import fastce
    >>> from fastce import sharded
    >>> loss = fastce.SoftmaxCrossEntropy()
    >>> shards = (0, [[20.0]]), (1, [[0.0, 0.0]])
    >>> parts = [sharded.summarise(z, [0], first, loss, classes=3) for first, z in shards]
    >>> print(sharded.finish(sharded.merge(*parts), [0], loss, classes=3))
    4.1223072363804075e-09
    """
    rows = Rows(summary, target, loss, classes, sample_weight, normalizer)
    losses = rows.divergences() if loss.takes_logits else rows.losses()[0]
    if loss.reduction == "none":
        return losses.reshape(rows.shape)
    with np.errstate(all="ignore"):
        return float(losses.sum()) / rows.denominator


def gradient(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    first_class: int,
    part: AnySummary,
    summary: AnySummary,
    loss: SoftmaxLoss,
    *,
    classes: int,
    where: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    r"""Return the gradient of the loss with respect to the logits of one shard.

    Except at the target, the gradient of a row is :math:`a \exp(u_j − m) − b\,t_j`, and that of a
    divergence is :math:`T (q_j − p_j)`. The summary of the row gives m, a and b, or the
    denominators of p and q. Each shard therefore computes its part without the others.

    Parameters
    ----------
    logits, target, first_class, loss, classes, where
        As for `summarise`.
    part : Summary or DivergenceSummary
        The result of `summarise` for this shard.
    summary : Summary or DivergenceSummary
        The merged summary of all shards.
    sample_weight, normalizer
        As for `finish`.
    grad_output : float or array_like, optional
        The upstream gradient: a scalar, or an array of the target's shape if ``reduction="none"``.
    out : array, optional
        Where to write, as for ``loss.value_and_grad``; it may be `logits` itself.

    Returns
    -------
    array
        With the shape and dtype of the logits, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError, IndexError
        As raised by `summarise` and `finish`; ValueError also if `out` is not accepted.

    Examples
    --------
    >>> import fastce
    >>> from fastce import sharded
    >>> loss, y = fastce.SoftmaxCrossEntropy(), [0]
    >>> left, right = [[20.0]], [[0.0, 0.0]]
    >>> a = sharded.summarise(left, y, 0, loss, classes=3)
    >>> b = sharded.summarise(right, y, 1, loss, classes=3)
    >>> print(sharded.gradient(left, y, 0, a, sharded.merge(a, b), loss, classes=3))
    [[-4.12230723e-09]]
    """
    shard = Shard(logits, target, first_class, loss, classes, where)
    fields = checks_bridges.summary("part", part, loss)
    rows = Rows(summary, target, loss, classes, sample_weight, normalizer, grad_output)
    checks_bridges.summary_fits("part", fields, shard.shape, loss)
    for name, of_name in (("part", fields), ("summary", rows.fields)):
        checks_bridges.mask_fits(name, of_name, shard.mask is not None)
    inputs = [shard.target, shard.mask, rows.weight, *fields, *rows.fields]
    (given,) = checks.outputs(out, 1, shard.given, inputs)
    grad = new_like(shard.given) if given is None else given
    rows.write(shard, fields[0], np.moveaxis(grad, shard.axis, -1))
    return handed_back(out, [grad])[0]


def total_weight(
    target: npt.ArrayLike,
    loss: SoftmaxLoss,
    *,
    classes: int,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Return the sum of the weights of these rows, which is the denominator of their mean.

    If rows are distributed, add up the sums of all processes with different rows, and pass the
    total as `normalizer`.
    Each row that is not ignored counts with its sample weight, times the class weight of its label.
    The `alpha` of a focal loss does not count as a weight.

    Parameters
    ----------
    target, loss, classes, sample_weight
        As for `finish`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError, IndexError
        As raised by the loss itself.

    Examples
    --------
    >>> import fastce
    >>> from fastce import sharded
    >>> loss = fastce.SoftmaxCrossEntropy(weight=[1.0, 0.5])
    >>> sharded.total_weight([0, 1, 1, -100], loss, classes=2)
    2.0
    """
    return weights_of_rows(target, loss, classes, sample_weight)[0]


def _fall(maximum: Array, from_: Array) -> Array:
    """Return maximum − from_; 0 if both are −inf or +inf."""
    return np.where(maximum == from_, 0.0, maximum - from_)


def _times(weight: Array, value: Array) -> Array:
    """Multiply; a weight of 0 gives 0, even if the value is infinite."""
    return np.where(weight == 0, 0.0, weight * value)
