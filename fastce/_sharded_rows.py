"""The numbers behind `sharded`: one shard, with its arguments checked, and rows as a whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import _checks, _checks_bridges, _isa, _layout, _parallel
from fastce._evaluate import (
    BLOCK_ELEMENTS,
    Array,
    Batch,
    checked_denominator,
    last_axis,
    sufficient_type,
    working_type,
)
from fastce.losses import SoftmaxFocalLoss


def weights_of_labels(
    target: npt.ArrayLike, loss: Any, classes: int, sample_weight: npt.ArrayLike | None = None
) -> tuple[float, bool]:
    """Check every label and weight; return the sum of the rows' weights, and whether any counts."""
    _checks_bridges.softmax_loss(loss)
    classes = _checks_bridges.number_of_classes(classes)
    _checks.weights_fit(loss.class_weight_name, loss.class_weight, classes)
    y = _checks._array("target", target)
    # Of these logits nothing is read but the shape, and no memory is taken.
    logits = np.broadcast_to(np.bool_(), (*y.shape, classes))
    y, _ = _checks.softmax_target(y, logits, logits.ndim - 1, probabilities=False)
    weight = _checks.sample_weight(sample_weight, y.shape)
    return Batch(loss.kernel(), logits, labels=y, sample_weight=weight).sum_of_weights()


# A shard ------------------------------------------------------------------------------------------


class Shard:
    """The arguments of one shard, checked; its rows are the batch axes in C order."""

    def __init__(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        first_class: int,
        loss: Any,
        classes: int,
        where: npt.ArrayLike | None,
    ) -> None:
        _checks_bridges.softmax_loss(loss)
        self.given = _checks.logits(logits)
        self.axis = _checks.class_axis(self.given, loss.axis)
        self.logits = last_axis(self.given, self.axis)
        self.target, _ = _checks.softmax_target(target, self.given, self.axis, probabilities=False)
        self.width = self.logits.shape[-1]
        mask = _checks.where(where, self.given.shape)
        self.mask = None if mask is None else last_axis(mask, self.axis)
        first = _checks_bridges.shard_of_classes(first_class, self.width, classes)
        weights_of_labels(self.target, loss, classes)  # every label, before anything is written
        self.loss = loss
        self.rows = self.target.size
        # Where the target is in the shard; -1 where it is in another one, or ignored.
        column = self.target.reshape(-1).astype(np.int64) - first
        here = (column >= 0) & (column < self.width)
        self.column = np.where(here & (self.target.reshape(-1) != loss.ignore_index), column, -1)
        self.soft_target = _soft_target(loss, classes, slice(first, first + self.width))

    def statistics(self) -> Array:
        """Return the fields of the summary, (3, 5 or 6, rows), from one read of the logits."""
        soft = self.soft_target
        count = 3 if soft is None else 5 if self.mask is None else 6
        fields = np.zeros((count, self.rows))
        maximum, others, target_logit = fields[:3]
        if self.width == 0:  # and nothing is kept
            maximum[:], others[:], target_logit[:] = -np.inf, -1.0, -np.inf
            return fields
        wanted = {"maximum": maximum, "others": others, "target_logit": target_logit}
        options = {}
        if soft is not None:
            # The kernel's t_c is class_weight·label_smoothing / its number of classes: these ones.
            options = {"class_weight": soft, "label_smoothing": float(self.width)}
            fields[3] = soft.sum()
            wanted["soft_distance"] = fields[4]
        scale, cap = _scale_and_cap(self.loss)
        kernel = _isa.core.SoftmaxKernel(
            "cross_entropy", logit_scale=scale, softcap=cap or 0.0, **options
        )
        labels = np.maximum(self.column, 0)  # a row whose target lives elsewhere takes any
        labels = labels.reshape(self.target.shape)
        batch = Batch(kernel, self.logits, labels=labels, mask=self.mask)
        _run(batch, working_type(self.logits), scale, **wanted)
        target_logit[self.column < 0] = -np.inf
        if self.mask is not None:
            kept = np.count_nonzero(self.mask, axis=-1).reshape(-1)
            maximum[kept == 0], others[kept == 0] = -np.inf, -1.0
            target_logit[~self.target_is_kept()] = -np.inf
            if soft is not None:
                self._leave_out_masked(soft, kept, fields[3:])
        return fields

    def target_is_kept(self) -> Array:
        """Return, for each row, whether `where` leaves its target in, if that is in the shard."""
        assert self.mask is not None
        here = np.flatnonzero(self.column >= 0)
        kept = np.ones(self.rows, bool)
        rows = np.unravel_index(here, self.target.shape)
        kept[here] = self.mask[(*rows, self.column[here])]
        return kept

    def _leave_out_masked(self, soft: Array, kept: Array, fields: Array) -> None:
        """Fill in what label smoothing needs where classes are masked.

        ε is spread over those classes of a row that are left in, by all of its shards: how many
        they are is known in the end, and the sums are taken as if they were all.
        """
        whole = self.mask
        assert whole is not None
        mass, distance, fields[2] = fields[0], fields[1], kept
        distance *= kept / self.width  # the kernel spread it over those of this shard

        def work(rows: slice) -> None:
            mask = _layout.gather(whole, self.target.ndim, rows.start, rows.stop, bool)
            mass[rows] = np.where(mask, soft, 0.0).sum(axis=1)

        self.by_blocks(work)

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


def _slope(z: Array, loss: Any) -> Any:
    """Return du/dz."""
    scale, cap = _scale_and_cap(loss)
    return scale if cap is None else scale / np.cosh(z.astype(np.float64) * (scale / cap)) ** 2


def _scale_and_cap(loss: Any) -> tuple[float, float | None]:
    return getattr(loss, "logit_scale", 1.0), getattr(loss, "softcap", None)


def times(weight: Any, value: Any) -> Array:
    """Multiply; a weight of 0 gives 0, however infinite the value."""
    return np.where(np.equal(weight, 0), 0.0, weight * value)


# Whole rows ---------------------------------------------------------------------------------------


class Rows:
    """The numbers of whole rows, flat and in float64.

    The gradient by u_j is factor·scale·(pull·e_j − (1 + A)·t_j), with e_j = exp(u_j − m), and
    factor·at_target at the label.
    """

    def __init__(
        self,
        summary: Any,
        target: npt.ArrayLike,
        loss: Any,
        classes: int,
        sample_weight: npt.ArrayLike | None,
        normalizer: float | None,
        grad_output: npt.ArrayLike | None = None,
    ) -> None:
        total, any_counts = weights_of_labels(target, loss, classes, sample_weight)
        y, shape = np.asarray(target), np.shape(target)
        fields = _checks_bridges.summary("summary", summary)
        soft = getattr(loss, "label_smoothing", 0.0) != 0.0
        _checks_bridges.summary_fits("summary", fields, shape, soft)
        self.weight = _checks.sample_weight(sample_weight, shape)
        normalizer = _checks.normalizer(normalizer)
        factor = _checks.grad_output(grad_output, shape, loss.reduction)
        self.denominator = 1.0
        if loss.reduction == "mean":
            self.denominator = normalizer or checked_denominator(total, any_counts)

        self.loss = loss
        self.spread: Any = np.ones(y.size)  # of label smoothing: K / those that `where` leaves in
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
            self.fields = [np.ravel(field) for field in fields]
            if isinstance(loss, SoftmaxFocalLoss):
                self._focal(hard)
            else:
                soft_at_target = _soft_target(loss, classes, label) if y.size else None
                self._cross_entropy(hard * (1 - loss.label_smoothing), soft_at_target, classes)
            self.losses = np.where(self.active, weight * self.value, 0.0)
            if not any_counts:
                self.active[:] = False  # the gradient is 0, whatever the mean is
            scale = np.ravel(factor) / self.denominator
            self.factor = np.where(self.active, weight * scale, 0.0)

    def _cross_entropy(self, hard: Array, soft_at_target: Array | None, classes: int) -> None:
        """Cross-entropy with the mass `hard` on the label, besides what smoothing puts there."""
        m, others, target_logit, *soft_sums = self.fields
        soft, distance, *kept = soft_sums or (0.0, 0.0)
        at_target = 0.0 if soft_at_target is None else soft_at_target
        if kept:
            self.spread = classes / kept[0]
            soft, distance, at_target = (x * self.spread for x in (soft, distance, at_target))
        others = others + (m - m)  # NaN where a row has +inf, or nothing but −inf
        log_total = np.log1p(others)
        lse = m + log_total
        z_loss = self.loss.z_loss
        nll = (m - target_logit) + log_total
        e = np.exp(target_logit - m)
        self.value = times(hard, nll) + distance + soft * log_total + times(z_loss, lse * lse)
        self.pull = hard + soft + times(2 * z_loss, lse)
        self.scale = 1 / (1 + others)
        self.at_target = self.scale * (
            (soft + times(2 * z_loss, lse) - at_target) * e
            - (hard + at_target) * (others + (1 - e))
        )
        self.value = np.where(np.isnan(others), np.nan, self.value)

    def _focal(self, alpha: Array) -> None:
        """Focal loss of p = p_y and q = 1 − p; ce / q tends to 1 where q vanishes."""
        m, others, target_logit = self.fields
        others = others + (m - m)
        self.scale = 1 / (1 + others)
        e = np.exp(target_logit - m)
        p, q = e * self.scale, (others + (1 - e)) * self.scale
        ce = (m - target_logit) + np.log1p(others)
        modulation = alpha * q**self.loss.gamma
        ratio = np.where(q == 0, p, times(p, ce) / q)
        self.pull = modulation * (1 + self.loss.gamma * ratio)
        self.at_target = -self.pull * q
        self.value = np.where(np.isnan(p), np.nan, times(modulation, ce))

    def write(self, shard: Shard, maximum: Array, others: Array, grad: Array) -> None:
        """Write the gradient of a shard from its own summary; `grad` may be its logits."""
        shape = shard.target.shape
        with np.errstate(all="ignore"):
            maximum, others = np.ravel(maximum), np.ravel(others)
            share = np.exp(maximum - self.fields[0]) * (1 + others) * self.scale
            pull = self.factor * self.pull * share
            lost = self.active & np.isnan(self.scale)
            live = self.active & (maximum > -np.inf)  # a shard of −inf has no softmax of its own
            mine = np.flatnonzero(self.active & (shard.column >= 0))
            at = np.unravel_index(mine * shard.width + shard.column[mine], grad.shape)
            at_target = (self.factor * self.at_target)[mine] * _slope(shard.logits[at], self.loss)
            weight = live.astype(np.float64)
            if shard.soft_target is None:
                _write_softmax(self.loss, shard.logits, weight, pull, grad, shard.mask)
            else:
                self._write_soft(shard, shard.soft_target, weight, pull, grad)
            grad[at] = at_target
            grad[lost.reshape(shape)] = np.nan
            if shard.mask is not None:
                np.copyto(grad, 0, where=~shard.mask)

    def _write_soft(
        self, shard: Shard, soft: Array, weight: Array, pull: Array, grad: Array
    ) -> None:
        """Write pull·softmax − factor·t, in blocks of rows."""
        axes, factor = grad.ndim - 1, self.factor * self.spread
        types = (sufficient_type(shard.logits, (), array) for array in (factor, pull))
        real = max(types, key=lambda dtype: dtype.itemsize)
        soft, factor = soft.astype(real), factor.astype(real)[:, None]
        is_capped = _scale_and_cap(self.loss)[1] is not None

        def work(rows: slice) -> None:
            z = shard.block(rows)
            block = np.empty(z.shape, real)
            mask = None
            if shard.mask is not None:
                mask = _layout.gather(shard.mask, axes, rows.start, rows.stop, bool)
            _write_softmax(self.loss, z, weight[rows], pull[rows], block, mask)
            slope = _slope(z, self.loss)
            if is_capped:  # at a NaN in a row that is not used, the slope is NaN
                block -= times(factor[rows] * soft, slope)
            else:
                block -= factor[rows] * (slope * soft)
            _layout.scatter(block, grad, axes, rows.start, rows.stop)

        shard.by_blocks(work)


def _write_softmax(
    loss: Any, logits: Array, weight: Array, pull: Array, grad: Array, mask: Array | None
) -> None:
    """Write pull·softmax(u)·du/dz of each row, 0 where the row's weight is 0 whatever it holds."""
    scale, cap = _scale_and_cap(loss)
    kernel = _isa.core.SoftmaxKernel("logsumexp", logit_scale=scale, softcap=cap or 0.0)
    shape = logits.shape[:-1]
    batch = Batch(
        kernel,
        logits,
        mask=mask,
        sample_weight=weight.reshape(shape),
        grad_output=pull.reshape(shape),
    )
    _run(batch, sufficient_type(logits, (), pull), scale, grad=grad)


def _run(batch: Batch, real: Any, logit_scale: float, **outputs: Array) -> None:
    """Go over all rows in a type, or in float64 if scaled logits leave the range of float32."""
    batch.real = np.dtype(np.float64) if batch.scale_overflows(logit_scale) else real
    batch.run(1.0, **outputs)
