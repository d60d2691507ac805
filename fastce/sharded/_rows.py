"""The computations of `sharded`: one shard with checked arguments, and whole rows."""

import functools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from fastce._call import checks, checks_bridges, checks_softmax, layout, threads, variants
from fastce._call.arguments import native_float, working_type
from fastce._call.layout import Array
from fastce.losses import SoftmaxCrossEntropy, SoftmaxFocalLoss, SoftmaxKLDivergence
from fastce.sharded._blocks import gather, matrices, scatter

SoftmaxLoss = SoftmaxCrossEntropy | SoftmaxFocalLoss | SoftmaxKLDivergence

_thresholds = variants.core.thresholds()
BLOCK_ELEMENTS = _thresholds["gathered elements"]
GROUP_ROWS = _thresholds["block rows"]  # which the kernels process together; a task has a multiple


def weights_of_rows(
    target: npt.ArrayLike, loss: Any, classes: int, sample_weight: npt.ArrayLike | None = None
) -> tuple[float, bool]:
    """Check labels and weights; return the sum of the weights, and whether any row counts."""
    checks_bridges.one_of_losses(loss, get_args(SoftmaxLoss))
    classes = checks_bridges.number_of_classes(classes)
    checks.weights_fit(loss.class_weight_name, loss.class_weight, classes)
    shape = shape_of_rows(target, loss)
    logits = layout.stand_in((*shape, classes), np.float32)
    if loss.takes_logits:
        y = logits
    else:
        y, _ = checks.softmax_target(target, logits, logits.ndim - 1, probabilities=False)
    weight = checks.sample_weight(sample_weight, shape)
    total, any_counts = loss.kernel().weigh(logits, y, weight)
    return total, any_counts


def shape_of_rows(target: npt.ArrayLike, loss: Any) -> tuple[int, ...]:
    """Return the shape of labels, or that of a teacher's logits without the class axis."""
    y = checks.as_array("target", target)
    if not loss.takes_logits:
        return y.shape
    axis = checks.class_axis(checks_softmax.teacher_logits(y, y), loss.axis)
    return y.shape[:axis] + y.shape[axis + 1 :]


def numbers_of_a_summary(loss: Any, has_mask: bool) -> int:
    """Return how many numbers `packed` returns for each row."""
    if loss.takes_logits:
        return 7
    if getattr(loss, "label_smoothing", 0.0) == 0.0:
        return 3
    return 6 if has_mask else 5


def _numbers(array: Array | None, dtype: Any = np.float64) -> Array | None:
    """Return one number per row, contiguous and in native byte order, as the kernels need them."""
    if array is None:
        return None
    return np.require(array.reshape(-1), np.dtype(dtype).newbyteorder("="), ["C", "A"])


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
        checks_bridges.one_of_losses(loss, get_args(SoftmaxLoss))
        self.given = checks.logits(logits)
        self.axis = checks.class_axis(self.given, loss.axis)
        self.logits = np.moveaxis(self.given, self.axis, -1)
        y, _ = checks_softmax.target_of_rows(loss, target, self.given, self.axis, only_labels=True)
        self.target = np.moveaxis(y, self.axis, -1) if loss.takes_logits else y
        self.shape = self.logits.shape[:-1]
        self.width = self.logits.shape[-1]
        mask = checks.where(where, self.given.shape)
        self.mask = None if mask is None else np.moveaxis(mask, self.axis, -1)
        self.first = checks_bridges.shard_of_classes(first_class, self.width, classes)
        weights_of_rows(target, loss, classes)  # every label, before anything is written
        self.loss, self.classes = loss, classes

    def statistics(self) -> Array:
        """Return the fields of the summary, (numbers, rows), from one pass over the logits."""
        if self.loss.takes_logits:
            found: Array = self.loss.kernel().summarise(self.logits, self.target, self.mask)
            return found.reshape(len(found), -1)
        smoothing = getattr(self.loss, "label_smoothing", 0.0)
        count = numbers_of_a_summary(self.loss, self.mask is not None)
        fields = np.zeros((count, self.target.size))
        maximum, others, target_logit = fields[:3]
        maximum[:], others[:], target_logit[:] = -np.inf, -1.0, -np.inf
        if self.width == 0:  # and nothing is kept
            return fields
        # The position of the target in the shard; any position if another shard holds it.
        column = self.target.reshape(-1).astype(np.int64) - self.first
        here = (column >= 0) & (column < self.width)
        here &= self.target.reshape(-1) != self.loss.ignore_index
        rows = {
            "labels": np.where(here, column, 0),
            "maximum": maximum,
            "others": others,
            "target_logit": target_logit,
        }
        options = {}
        if smoothing:
            soft = np.full(self.width, smoothing / self.classes)  # t_c
            if self.loss.weight is not None:
                soft *= self.loss.weight[self.first : self.first + self.width]
            # The kernel computes t_c as class_weight·label_smoothing / (its number of classes).
            options = {"class_weight": soft, "label_smoothing": float(self.width)}
            fields[3] = soft.sum()
            rows["soft_gap"] = fields[4]
        kernel = variants.core.SoftmaxKernel(
            "cross_entropy",
            logit_scale=getattr(self.loss, "logit_scale", 1.0),
            softcap=getattr(self.loss, "softcap", None) or 0.0,
            **options,
        )
        variants.core.SoftmaxRun(kernel, 1.0, self.logits, mask=self.mask, **rows).total()
        target_logit[~here] = -np.inf
        if self.mask is not None:
            kept = np.count_nonzero(self.mask, axis=-1).reshape(-1)
            maximum[kept == 0], others[kept == 0] = -np.inf, -1.0
            if smoothing:
                # ε is spread over the unmasked classes of all shards of the row. Their number is
                # known only at the end, so the sums are computed as if none were masked.
                fields[3] = masked_sums(self.mask, soft).reshape(-1)
                fields[4] *= kept / self.width  # the kernel spread ε over those of this shard
                fields[5] = kept
        return fields

    def write_gradient(
        self, run: Callable[..., Any], real: Any, rows: dict[str, Any], grad: Array
    ) -> None:
        """Compute the gradient in ``real``, or in float64 if scaled logits overflow it.

        ``run`` turns arrays into a function that processes a range of their rows; ``rows`` are the
        arrays with one number per row.
        """
        count, axes = self.target.size, self.target.ndim
        if count == 0 or self.width == 0:
            return
        if real != np.float64 and self.loss.kernel().scale_overflows(self.logits):
            real = np.dtype(np.float64)
        given = {"logits": self.logits, "grad": grad}
        if self.mask is not None:
            given["mask"] = self.mask
        types = {name: array.dtype.newbyteorder("=") for name, array in given.items()}
        if real != working_type(self.logits):
            types |= {name: real for name in given if name != "mask"}
        is_native = all(array.dtype == types[name] for name, array in given.items())
        views = matrices(given) if is_native else None
        step = max(BLOCK_ELEMENTS // self.width, 1)

        def by_blocks(start: int, stop: int) -> float:
            for first in range(start, stop, step):
                last = min(first + step, stop)
                block = {
                    name: gather(array, axes, first, last, types[name])
                    for name, array in given.items()
                }
                numbers = {n: None if x is None else x[first:last] for n, x in rows.items()}
                run(**block, **numbers)(0, last - first)
                scatter(block["grad"], grad, axes, first, last)
            return 0.0

        work = by_blocks if views is None else run(**views, **rows)
        is_short = self.width * GROUP_ROWS <= BLOCK_ELEMENTS
        are_rows = self.logits.strides[-1] == self.logits.itemsize
        tasks = threads.tasks_of(count, self.width, 1 if are_rows and not is_short else GROUP_ROWS)
        threads.run(work, tasks, count * self.width)


def masked_sums(mask: Array, weights: Array) -> Array:
    """Return the sum of the weights that each row of a mask keeps.

    One after another, rounding errors of equal weights would add up.
    """
    starts = range(0, max(len(weights), 1), 64)
    parts = [np.einsum("...c,c->...", mask[..., i : i + 64], weights[i : i + 64]) for i in starts]
    return np.asarray(np.stack(parts, axis=-1).sum(axis=-1))


# Whole rows ---------------------------------------------------------------------------------------


class Rows:
    """Whole rows: their checked summary and weights, and the denominator of a mean."""

    def __init__(
        self,
        summary: Any,
        target: npt.ArrayLike,
        loss: Any,
        classes: int,
        sample_weight: npt.ArrayLike | None = None,
        normalizer: float | None = None,
        grad_output: npt.ArrayLike | None = None,
    ) -> None:
        total, self.any_counts = weights_of_rows(target, loss, classes, sample_weight)
        self.shape = shape_of_rows(target, loss)
        self.fields = checks_bridges.summary("summary", summary, loss)
        checks_bridges.summary_fits("summary", self.fields, self.shape, loss)
        self.weight = checks.sample_weight(sample_weight, self.shape)
        normalizer = checks.normalizer(normalizer)
        factor = checks.grad_output(grad_output, self.shape, loss.reduction)
        self.denominator = 1.0
        if loss.reduction == "mean":
            self.denominator = normalizer or variants.core.denominator_of(total, self.any_counts)
        self.factors = factor if isinstance(factor, np.ndarray) else None
        self.scale = (1.0 if isinstance(factor, np.ndarray) else factor) / self.denominator
        self.loss = loss
        if loss.takes_logits:
            return
        self.run = functools.partial(variants.core.ShardRun, loss.kernel(), self.scale, classes)
        names = ("maximum", "others", "target_logit", "soft_mass", "soft_gap", "kept")
        self.numbers = {
            "labels": _numbers(np.asarray(target), np.int64),
            "sample_weight": _numbers(self.weight),
            **{name: _numbers(field) for name, field in zip(names, self.fields, strict=False)},
        }

    def divergences(self) -> Array:
        """Return the weighted losses of a divergence, flat, in float64."""
        losses, nothing = np.empty(self.shape), np.empty((*self.shape, 0))
        self.of_shard(nothing, nothing, sample_weight=self.weight, loss=losses)
        return losses.reshape(-1)

    def of_shard(self, logits: Array, teacher: Array, **arrays: Any) -> None:
        whole = np.array(self.fields, np.float64)  # contiguous
        self.loss.kernel().of_shard(logits, teacher, whole, self.scale, **arrays)

    def losses(self) -> tuple[Array, Array]:
        """Return the weighted losses and the log-sum-exps, flat, in float64."""
        losses, log_sum_exp = np.empty((2, self.fields[0].size))
        work = self.run(**self.numbers, loss=losses, log_sum_exp=log_sum_exp)
        tasks = threads.tasks_of(losses.size, 1, GROUP_ROWS)
        threads.run(work, tasks, losses.size)
        return losses, log_sum_exp

    def write(self, shard: Shard, own_maximum: Array, grad: Array) -> None:
        """Write the gradient of a shard; `grad` may be its logits."""
        if math.isnan(self.denominator) and not self.any_counts:
            grad[...] = 0
            return
        if self.loss.takes_logits:
            self.of_shard(
                shard.logits,
                shard.target,
                sample_weight=self.weight,
                where=shard.mask,
                grad_output=native_float(self.factors),
                grad=grad,
            )
            return
        numbers = {
            **self.numbers,
            "grad_output": _numbers(self.factors),
            "own_maximum": _numbers(own_maximum),
        }
        run = functools.partial(self.run, first_class=shard.first)
        weight, factor = (
            1.0 if x is None else float(np.abs(x).max(initial=0))
            for x in (numbers["sample_weight"], numbers["grad_output"])
        )
        wide = variants.core.factors_leave_float32(
            self.scale, weight, self.loss.largest_factor, factor
        )
        real = np.dtype(np.float64) if wide else working_type(shard.logits)
        shard.write_gradient(run, real, numbers, grad)
