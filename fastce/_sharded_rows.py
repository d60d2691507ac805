"""The numbers behind `sharded`: one shard, with its arguments checked, and rows as a whole."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import _checks, _checks_bridges, _isa, _layout, _parallel
from fastce._evaluate import BLOCK_ELEMENTS, Array, Batch, last_axis, working_type
from fastce.losses import SoftmaxFocalLoss


def denominator(
    target: npt.ArrayLike, loss: Any, classes: int, sample_weight: npt.ArrayLike | None = None
) -> float:
    """Check every label, and return what the mean over these rows divides by."""
    _checks_bridges.softmax_loss(loss)
    classes = _checks_bridges.number_of_classes(classes)
    _checks.weights_fit(loss.class_weight_name, loss.class_weight, classes)
    # Of these logits nothing is read but the shape, and no memory is taken.
    logits = np.broadcast_to(np.float32(0), (*np.shape(target), classes))
    y, _ = _checks.softmax_target(target, logits, logits.ndim - 1, probabilities=False)
    weight = _checks.sample_weight(sample_weight, y.shape)
    return Batch(loss.kernel(), logits, labels=y, sample_weight=weight).denominator()


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
    ) -> None:
        _checks_bridges.softmax_loss(loss)
        self.given = _checks.logits(logits)
        self.axis = _checks.class_axis(self.given, loss.axis)
        self.logits = last_axis(self.given, self.axis)
        self.target, _ = _checks.softmax_target(target, self.given, self.axis, probabilities=False)
        self.width = self.logits.shape[-1]
        first = _checks_bridges.shard_of_classes(first_class, self.width, classes)
        denominator(self.target, loss, classes)  # every label, before anything is written
        self.loss = loss
        self.rows = self.target.size
        # Where the target is in the shard; -1 where it is in another one, or ignored.
        column = self.target.reshape(-1).astype(np.int64) - first
        here = (column >= 0) & (column < self.width)
        self.column = np.where(here & (self.target.reshape(-1) != loss.ignore_index), column, -1)
        self.soft_target = _soft_target(loss, classes, slice(first, first + self.width))

    def statistics(self) -> Array:
        """Return the fields of the summary, (3 or 5, rows), from one read of the logits."""
        soft = self.soft_target
        fields = np.zeros((3 if soft is None else 5, self.rows))
        maximum, others, target_logit = fields[:3]
        if self.width == 0:
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
        Batch(kernel, self.logits, labels=labels.reshape(self.target.shape)).run(1.0, **wanted)
        target_logit[self.column < 0] = -np.inf
        return fields

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
        summary: Iterable[Array | None],
        target: npt.ArrayLike,
        loss: Any,
        classes: int,
        sample_weight: npt.ArrayLike | None,
        normalizer: float | None,
        grad_output: npt.ArrayLike | None = None,
    ) -> None:
        wanted = denominator(target, loss, classes, sample_weight)
        y, shape = np.asarray(target), np.shape(target)
        fields = [field for field in summary if field is not None]
        _checks_bridges.summary_fits(fields[0].shape, shape)
        self.weight = _checks.sample_weight(sample_weight, shape)
        normalizer = _checks.normalizer(normalizer)
        factor = _checks.grad_output(grad_output, shape, loss.reduction)
        self.denominator = {"mean": wanted, "sum": 1.0, "none": 1.0}[loss.reduction]
        if normalizer is not None and loss.reduction == "mean":
            self.denominator = normalizer

        self.loss = loss
        soft = getattr(loss, "label_smoothing", 0.0) != 0.0
        _checks_bridges.summary_is_soft(len(fields) > 3, soft)
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
        m, others, target_logit, *soft_sums = self.fields
        soft, distance = soft_sums or (0.0, 0.0)
        at_target = 0.0 if soft_at_target is None else soft_at_target
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
                _write_softmax(self.loss, shard.logits, weight, pull, grad)
            else:
                self._write_soft(shard, shard.soft_target, weight, pull, grad)
            grad[at] = at_target
            grad[lost.reshape(shape)] = np.nan

    def _write_soft(
        self, shard: Shard, soft: Array, weight: Array, pull: Array, grad: Array
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
                block -= times(factor[rows] * soft, slope)
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
