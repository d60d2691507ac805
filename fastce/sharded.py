"""Softmax losses of rows whose classes are spread over shards, for any transport.

A shard of a row is summarised by a few numbers. With u its logits after scale and cap::

    m = max u        A = Σ exp(u_j − m) over all of its classes but one maximum

and the logit of the target, if that lives in the shard. Two summaries merge into that of both::

    (m₁, A₁) + (m₂, A₂) = (m₁, A₁ + (1 + A₂)·exp(m₂ − m₁)),    m₁ ≥ m₂

and (−∞, −1) is the summary of no class. Merging is associative up to rounding, and exact in the
tail: A adds up terms of one sign, and 1 + A is formed by no one before the loss, log1p(A), is. So a
confident, correct row keeps its digits however it is split.

A step on shards goes like this, with whatever moves arrays between processes::

    part = summarise(logits, target, first_class, loss, classes=K)    # each shard, by itself
    summary = merge(part, part_of_another_shard)                      # over all the shards
    value = finish(summary, target, loss, classes=K)                  # anyone
    grad = gradient(logits, target, first_class, part, summary, loss, classes=K)   # each shard

What moves is ``part.packed()``: three float64 numbers a row and shard, five with label smoothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import _checks, _checks_bridges, _isa, _layout, _parallel
from fastce._evaluate import BLOCK_ELEMENTS, Array, Batch, last_axis, new_like, working_type
from fastce.losses import SoftmaxCrossEntropy, SoftmaxFocalLoss

__all__ = ["Summary", "finish", "gradient", "merge", "summarise", "total_weight"]

SoftmaxLoss = SoftmaxCrossEntropy | SoftmaxFocalLoss


class Summary(NamedTuple):
    """What is known of rows from some of their classes: float64 arrays of the target's shape.

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
    """m = max u; −inf where there is no class."""
    others: Array
    """Σ exp(u_j − m) over all classes but one maximum; −1 where there is no class."""
    target_logit: Array
    """u of the target; −inf where it lives elsewhere."""
    soft_mass: Array | None = None
    """With label smoothing ε, Σ t_c of these classes, t_c = w_c·ε/K."""
    soft_distance: Array | None = None
    """With label smoothing, Σ t_c (m − u_c)."""

    def packed(self) -> Array:
        """Return the fields as one array to send: (3, ...), or (5, ...) with label smoothing."""
        return np.stack([field for field in self if field is not None])


def summarise(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    first_class: int,
    loss: SoftmaxLoss,
    *,
    classes: int,
) -> Summary:
    """Summarise the classes of one shard: the first step of a loss, and the only one to read all.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        The logits of the classes [first_class, first_class + n) of all rows; they lie along
        ``loss.axis``. n may be 0.
    target : array_like of integers
        Labels in [0, classes) or ``loss.ignore_index``, of the logits' shape less the class axis:
        the same in every shard.
    first_class : int
        The class of the shard's first logit.
    loss : SoftmaxCrossEntropy or SoftmaxFocalLoss
        What the loss is; its `weight` or `alpha` holds all classes.
    classes : int
        K, the number of classes of all shards together.

    Returns
    -------
    Summary

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.
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
    shard = _Shard(logits, target, first_class, loss, classes)
    soft = shard.soft_target
    fields = np.empty((3 if soft is None else 5, shard.rows))

    def work(rows: slice) -> None:
        fields[:, rows] = _statistics(shard.block(rows), shard.column[rows], loss, soft)

    shard.by_blocks(work)
    return Summary(*fields.reshape(len(fields), *shard.target.shape))


def merge(a: Summary, b: Summary) -> Summary:
    """Return the summary of the classes of two shards.

    With m = max(m_a, m_b), and A of the shard that m is from, A_m + (1 + A_other)·exp(m_other − m)
    is the sum over the others; Σ t_c (m − u_c) grows by Σ t_c times what m has risen.

    Parameters
    ----------
    a, b : Summary
        Of the same rows, and of classes that are not the same.

    Returns
    -------
    Summary
        ``merge(a, merge(b, c))`` and ``merge(merge(a, b), c)`` are equal up to rounding.

    Raises
    ------
    ValueError
        The summaries are of different shapes, or only one knows of label smoothing.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import sharded
    >>> a = sharded.Summary(np.array([50.0]), np.array([0.0]), np.array([50.0]))
    >>> b = sharded.Summary(np.array([0.0]), np.array([1.0]), np.array([-np.inf]))
    >>> print(sharded.merge(a, b).others)
    [3.8574997e-22]
    """
    _checks_bridges.summaries_fit(a.packed().shape, b.packed().shape)
    with np.errstate(all="ignore"):
        maximum = np.maximum(a.maximum, b.maximum)
        a_fall, b_fall = _fall(maximum, a.maximum), _fall(maximum, b.maximum)
        # One of the falls is 0: what the sum is relative to is not rounded.
        a_leads = a.maximum >= b.maximum
        leading = np.where(a_leads, a.others, b.others)
        following = np.where(a_leads, b.others, a.others)
        others = leading + (1 + following) * np.exp(-np.maximum(a_fall, b_fall))
        target_logit = np.maximum(a.target_logit, b.target_logit)
        if a.soft_mass is None or b.soft_mass is None:
            return Summary(maximum, others, target_logit)
        a_distance = a.soft_distance + _times(a.soft_mass, a_fall)
        b_distance = b.soft_distance + _times(b.soft_mass, b_fall)
        mass = a.soft_mass + b.soft_mass
        return Summary(maximum, others, target_logit, mass, a_distance + b_distance)


def finish(
    summary: Summary,
    target: npt.ArrayLike,
    loss: SoftmaxLoss,
    *,
    classes: int,
    sample_weight: npt.ArrayLike | None = None,
    normalizer: float | None = None,
) -> Any:
    """Return the loss of rows whose classes are all in the summary.

    Parameters
    ----------
    summary : Summary
        Of all the shards, merged.
    target, loss, classes
        As for `summarise`.
    sample_weight : array_like, optional
        Finite, at least 0; broadcasts to the target's shape.
    normalizer : float > 0, optional
        Replaces the mean's denominator: that of all processes, where each holds some of the rows.

    Returns
    -------
    float or array
        What ``loss(logits, target, ...)`` gives for the whole rows; with ``reduction="none"`` an
        array of float64.

    Raises
    ------
    TypeError, ValueError, IndexError
        As the loss itself raises them.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> from fastce import sharded
    >>> loss = fastce.SoftmaxCrossEntropy()
    >>> shards = (0, np.array([[20.0]])), (1, np.array([[0.0, 0.0]]))
    >>> parts = [sharded.summarise(z, [0], first, loss, classes=3) for first, z in shards]
    >>> print(sharded.finish(sharded.merge(*parts), [0], loss, classes=3))
    4.1223072363804075e-09
    """
    rows = _Rows(summary, target, loss, classes, sample_weight, normalizer)
    if loss.reduction == "none":
        return rows.losses.reshape(summary.maximum.shape)
    if loss.reduction == "mean" and not rows.denominator:
        return float("nan")
    return float(rows.losses.sum()) / rows.denominator


def gradient(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    first_class: int,
    part: Summary,
    summary: Summary,
    loss: SoftmaxLoss,
    *,
    classes: int,
    sample_weight: npt.ArrayLike | None = None,
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of the loss by the logits of one shard.

    The gradient of a whole row by u_j is a·p_j − b·t_j, but at the target. Of this the shard writes
    its own softmax, times a·exp(m_shard − m)·(1 + A_shard) / (1 + A), less b·t_j.

    Parameters
    ----------
    logits, target, first_class, loss, classes
        As for `summarise`.
    part : Summary
        What `summarise` returned for this shard.
    summary : Summary
        Of all the shards, merged.
    sample_weight, normalizer
        As for `finish`.
    grad_output : float or array_like, optional
        Chain-rule factor: a scalar, or of the target's shape when ``reduction="none"``.
    out : array, optional
        Where to write: of the logits' shape and dtype (or float32, for 16-bit logits). It may be
        `logits` itself.

    Returns
    -------
    array
        Of the logits' shape and dtype, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError, IndexError
        As the loss itself raises them.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> from fastce import sharded
    >>> loss, y = fastce.SoftmaxCrossEntropy(), [0]
    >>> left, right = np.array([[20.0]]), np.array([[0.0, 0.0]])
    >>> a = sharded.summarise(left, y, 0, loss, classes=3)
    >>> b = sharded.summarise(right, y, 1, loss, classes=3)
    >>> print(sharded.gradient(left, y, 0, a, sharded.merge(a, b), loss, classes=3))
    [[-4.12230723e-09]]
    """
    shard = _Shard(logits, target, first_class, loss, classes)
    _checks_bridges.summary_fits(part.maximum.shape, shard.target.shape)
    rows = _Rows(summary, shard.target, loss, classes, sample_weight, normalizer, grad_output)
    (given,) = _checks.outputs(out, 1, shard.given, [shard.target, rows.weight])
    grad = new_like(shard.given) if given is None else given
    rows.write(shard, part, last_axis(grad, shard.axis))
    return grad


def total_weight(
    target: npt.ArrayLike,
    loss: SoftmaxLoss,
    *,
    classes: int,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Return the denominator of the mean over these rows: the `normalizer` where rows are spread.

    It is Σᵢ sample_weightᵢ·weight[yᵢ] over the rows that are not ignored; the `alpha` of a focal
    loss is no weight.

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
        As the loss itself raises them.

    Examples
    --------
    >>> import fastce
    >>> from fastce import sharded
    >>> loss = fastce.SoftmaxCrossEntropy(weight=[1.0, 0.5])
    >>> sharded.total_weight([0, 1, 1, -100], loss, classes=2)
    2.0
    """
    _checks_bridges.softmax_loss(loss)
    classes = _checks_bridges.number_of_classes(classes)
    _checks.weights_fit(loss.class_weight_name, loss.class_weight, classes)
    # Of these logits nothing is read but the shape, and no memory is taken.
    logits = np.broadcast_to(np.float32(0), (*np.shape(target), classes))
    y, _ = _checks.softmax_target(target, logits, logits.ndim - 1, probabilities=False)
    weight = _checks.sample_weight(sample_weight, y.shape)
    return Batch(loss.kernel(), logits, labels=y, sample_weight=weight).denominator(True)


# A shard ------------------------------------------------------------------------------------------


class _Shard:
    """The arguments of one shard, checked; its rows are the batch axes in C order."""

    def __init__(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        first_class: int,
        loss: Any,
        classes: int,
    ) -> None:
        _checks_bridges.softmax_loss(loss)
        self.given = _checks.logits(logits)
        self.axis = _checks.class_axis(self.given, loss.axis)
        self.logits = last_axis(self.given, self.axis)
        self.target, _ = _checks.softmax_target(target, self.given, self.axis, probabilities=False)
        self.width = self.logits.shape[-1]
        first = _checks_bridges.shard_of_classes(first_class, self.width, classes)
        total_weight(self.target, loss, classes=classes)  # every label, before anything is written
        self.rows = self.target.size
        # Where the target is in the shard; -1 where it is in another one, or ignored.
        column = self.target.reshape(-1).astype(np.int64) - first
        here = (column >= 0) & (column < self.width)
        self.column = np.where(here & (self.target.reshape(-1) != loss.ignore_index), column, -1)
        self.soft_target = _soft_target(loss, classes, slice(first, first + self.width))

    def block(self, rows: slice) -> Array:
        """Return rows as (rows, classes): a view if the array is one matrix already."""
        view = _layout.matrix(self.logits)
        if view is not None and view.ndim == 2:
            return view[rows]
        axes = self.logits.ndim - 1
        return _layout.gather(self.logits, axes, rows.start, rows.stop, self.logits.dtype)

    def by_blocks(self, work: Callable[[slice], None]) -> None:
        """Do all rows, from several threads, in blocks that stay in the second-level cache."""
        step = max(BLOCK_ELEMENTS // max(self.width, 1), 1)

        def task(start: int, stop: int) -> float:
            with np.errstate(all="ignore"):  # that of the caller does not reach other threads
                for first in range(start, stop, step):
                    work(slice(first, min(first + step, stop)))
            return 0.0

        tasks = _parallel.tasks_of(self.rows, self.width, 1)
        _parallel.run(task, tasks, self.rows * self.width)


def _soft_target(loss: Any, classes: int, which: Any) -> Array | None:
    """Return t_c = w_c·ε/K of some classes, or None where nothing is smoothed."""
    smoothing = getattr(loss, "label_smoothing", 0.0)
    if smoothing == 0.0:
        return None
    weight = np.broadcast_to(1.0, classes) if loss.weight is None else loss.weight
    soft: Array = weight[which] * (smoothing / classes)
    return soft


def _statistics(z: Array, column: Array, loss: Any, soft: Array | None) -> list[Array]:
    """Return the fields of the summary of (rows, classes), one array each."""
    if z.shape[1] == 0:
        nothing = np.full(len(z), -np.inf)
        zero = np.zeros(len(z))
        return [nothing, zero - 1, nothing] + ([] if soft is None else [zero, zero])
    rows = np.arange(len(z))
    u = _scaled_and_capped(z, loss)
    at = u.argmax(axis=1)
    maximum = u[rows, at].astype(np.float64)
    fields = [maximum, np.where(column >= 0, u[rows, column], -np.inf)]
    u -= u[rows, at][:, None]
    if soft is not None:
        mass, kept = soft.sum(), soft > 0
        # A class of weight 0 has no loss, even where its logit is −inf.
        terms = u * soft.astype(u.dtype) if kept.all() else u[:, kept] * soft[kept].astype(u.dtype)
        distance = -terms.sum(axis=1, dtype=np.float64)
        distance[maximum == -np.inf] = np.inf if mass > 0 else 0.0
        fields += [np.full(len(z), mass), distance]
    np.exp(u, out=u)
    u[rows, at] = 0
    others = u.sum(axis=1, dtype=np.float64)
    others[maximum == -np.inf] = -1.0
    return [maximum, others, *fields[1:]]


def _scaled_and_capped(z: Array, loss: Any) -> Array:
    """Return a copy of u: in the working precision, or where it must be computed in float64."""
    scale, cap = _scale_and_cap(loss)
    if scale == 1.0 and cap is None:
        return z.astype(working_type(z), order="C")
    u = z.astype(np.float64, order="C") * scale
    return u if cap is None else np.where(np.isfinite(u), cap * np.tanh(u / cap), u)


def _slope(z: Array, loss: Any) -> Any:
    """Return du/dz."""
    scale, cap = _scale_and_cap(loss)
    return scale if cap is None else scale / np.cosh(z.astype(np.float64) * (scale / cap)) ** 2


def _scale_and_cap(loss: Any) -> tuple[float, float | None]:
    return getattr(loss, "logit_scale", 1.0), getattr(loss, "softcap", None)


def _fall(maximum: Array, from_: Array) -> Array:
    """Return maximum − from_, 0 where both are −inf or +inf."""
    return np.where(maximum == from_, 0.0, maximum - from_)


def _times(weight: Any, value: Any) -> Array:
    """Multiply; a weight of 0 gives 0, however infinite the value."""
    return np.where(np.equal(weight, 0), 0.0, weight * value)


# Whole rows ---------------------------------------------------------------------------------------


class _Rows:
    """The numbers of whole rows, flat and in float64.

    The gradient by u_j is factor·scale·(pull·e_j − (1 + A)·t_j), with e_j = exp(u_j − m), and
    factor·at_target at the label.
    """

    def __init__(
        self,
        summary: Summary,
        target: npt.ArrayLike,
        loss: Any,
        classes: int,
        sample_weight: npt.ArrayLike | None,
        normalizer: float | None,
        grad_output: npt.ArrayLike | None = None,
    ) -> None:
        wanted = total_weight(target, loss, classes=classes, sample_weight=sample_weight)
        y, shape = np.asarray(target), np.shape(target)
        _checks_bridges.summary_fits(summary.maximum.shape, shape)
        self.weight = _checks.sample_weight(sample_weight, shape)
        normalizer = _checks.normalizer(normalizer)
        factor = _checks.grad_output(grad_output, shape, loss.reduction)
        self.denominator = {"mean": wanted, "sum": 1.0, "none": 1.0}[loss.reduction]
        if normalizer is not None and loss.reduction == "mean":
            self.denominator = normalizer

        self.loss = loss
        soft = getattr(loss, "label_smoothing", 0.0) != 0.0
        _checks_bridges.summary_is_soft(summary.soft_mass is not None, soft)
        self.active = (y != loss.ignore_index).reshape(-1)
        weight = np.ones(y.size)
        if self.weight is not None:
            weight = self.weight.reshape(-1).astype(np.float64)
            self.active &= weight != 0
        label = np.where(self.active, y.reshape(-1), 0).astype(np.int64)
        hard = np.ones(y.size)
        if loss.class_weight is not None and y.size:
            hard = loss.class_weight[label]
        with np.errstate(all="ignore"):
            self.summary = Summary(*(np.ravel(field) for field in summary if field is not None))
            if isinstance(loss, SoftmaxFocalLoss):
                self._focal(hard)
            else:
                soft_at_target = _soft_target(loss, classes, label) if y.size else None
                self._cross_entropy(hard * (1 - loss.label_smoothing), soft_at_target)
            self.losses = np.where(self.active, weight * self.value, 0.0)
            self.factor = np.zeros(y.size)
            if self.denominator:
                scale = np.ravel(factor) / self.denominator
                self.factor = np.where(self.active, weight * scale, 0.0)
            else:
                self.active[:] = False  # nothing counts: the gradient is 0

    def _cross_entropy(self, hard: Array, soft_at_target: Array | None) -> None:
        """Cross-entropy with the mass `hard` on the label, besides what smoothing puts there."""
        m, others, target_logit, *soft_sums = self.summary
        soft, distance = (0.0, 0.0) if soft_sums[0] is None else soft_sums
        at_target = 0.0 if soft_at_target is None else soft_at_target
        others = others + (m - m)  # NaN where a row has +inf, or nothing but −inf
        log_total = np.log1p(others)
        lse = m + log_total
        z_loss = self.loss.z_loss
        nll = (m - target_logit) + log_total
        e = np.exp(target_logit - m)
        self.value = _times(hard, nll) + distance + soft * log_total + _times(z_loss, lse * lse)
        self.pull = hard + soft + _times(2 * z_loss, lse)
        self.scale = 1 / (1 + others)
        self.at_target = self.scale * (
            (soft + _times(2 * z_loss, lse) - at_target) * e
            - (hard + at_target) * (others + (1 - e))
        )
        self.value = np.where(np.isnan(others), np.nan, self.value)

    def _focal(self, alpha: Array) -> None:
        """Focal loss of p = p_y and q = 1 − p; ce / q tends to 1 where q vanishes."""
        m, others, target_logit = self.summary[:3]
        others = others + (m - m)
        self.scale = 1 / (1 + others)
        e = np.exp(target_logit - m)
        p, q = e * self.scale, (others + (1 - e)) * self.scale
        ce = (m - target_logit) + np.log1p(others)
        modulation = alpha * q**self.loss.gamma
        ratio = np.where(q == 0, p, _times(p, ce) / q)
        self.pull = modulation * (1 + self.loss.gamma * ratio)
        self.at_target = -self.pull * q
        self.value = np.where(np.isnan(p), np.nan, _times(modulation, ce))

    def write(self, shard: _Shard, part: Summary, grad: Array) -> None:
        """Write the gradient of a shard, whose summary is `part`; `grad` may be its logits."""
        shape = shard.target.shape
        with np.errstate(all="ignore"):
            maximum, others = np.ravel(part.maximum), np.ravel(part.others)
            share = np.exp(maximum - self.summary.maximum) * (1 + others) * self.scale
            pull = self.factor * self.pull * share
            lost = self.active & np.isnan(self.scale)
            live = self.active & (maximum > -np.inf)  # a shard of −inf has no softmax of its own
            mine = np.flatnonzero(self.active & (shard.column >= 0))
            at = np.unravel_index(mine * shard.width + shard.column[mine], grad.shape)
            at_target = (self.factor * self.at_target)[mine] * _slope(shard.logits[at], self.loss)
            weight = live.astype(np.float64)
            if shard.soft_target is None:
                _write_softmax(self.loss, shard.logits, weight, pull, grad)
            else:
                self._write_soft(shard, shard.soft_target, weight, pull, grad)
            grad[at] = at_target
            grad[lost.reshape(shape)] = np.nan

    def _write_soft(
        self, shard: _Shard, soft: Array, weight: Array, pull: Array, grad: Array
    ) -> None:
        """Write pull·softmax − factor·t, in blocks of rows."""
        real, axes = working_type(grad), grad.ndim - 1
        soft, factor = soft.astype(real), self.factor.astype(real)[:, None]
        is_capped = _scale_and_cap(self.loss)[1] is not None

        def work(rows: slice) -> None:
            z = shard.block(rows)
            block = np.empty(z.shape, real)
            _write_softmax(self.loss, z, weight[rows], pull[rows], block)
            slope = _slope(z, self.loss)
            if is_capped:  # at a NaN in a row that is not used, the slope is NaN
                block -= _times(factor[rows] * soft, slope)
            else:
                block -= factor[rows] * (slope * soft)
            _layout.scatter(block, grad, axes, rows.start, rows.stop)

        shard.by_blocks(work)


def _write_softmax(loss: Any, logits: Array, weight: Array, pull: Array, grad: Array) -> None:
    """Write pull·softmax(u)·du/dz of each row, 0 where the row's weight is 0 whatever it holds."""
    scale, cap = _scale_and_cap(loss)
    kernel = _isa.core.SoftmaxKernel("logsumexp", logit_scale=scale, softcap=cap or 0.0)
    shape = logits.shape[:-1]
    batch = Batch(
        kernel, logits, sample_weight=weight.reshape(shape), grad_output=pull.reshape(shape)
    )
    batch.run(1.0, grad=grad)
