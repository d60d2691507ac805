"""The base class of the objectives. The formulas are in ``fastce.objectives``."""

import contextlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastce._call import checks, checks_bridges, variants
from fastce._call.arguments import working_type
from fastce._call.layout import Array
from fastce._call.loss import Loss
from fastce.losses import BCEWithLogits, SigmoidFocalLoss, SoftmaxCrossEntropy, SoftmaxFocalLoss
from fastce.objectives import _hessians, _start

# Fraction of |gradient| for losses that are not convex: no sample requests a step of more than
# 1/0.05 = 20. At γ = 2 the exact ratio is lower than this for p_t < 0.08 only.
FOCAL_FLOOR = 0.05

# The losses that objectives take, by the names that metrics report.
NAMES = {
    SoftmaxCrossEntropy: "softmax_cross_entropy",
    SoftmaxFocalLoss: "softmax_focal_loss",
    BCEWithLogits: "bce_with_logits",
    SigmoidFocalLoss: "sigmoid_focal_loss",
}


@dataclass(frozen=True)
class Objective:
    """A loss and a rule for its Hessian: the base class of all objectives.

    Use the class that is named after your host. For any other host, use `derivatives` and `value`
    of this class; its factor for softmax losses is 2, as in XGBoost.

    Parameters
    ----------
    loss : SoftmaxCrossEntropy, SoftmaxFocalLoss, BCEWithLogits or SigmoidFocalLoss
        Softmax losses need K scores per sample, sigmoid losses one. With K scores, a sigmoid loss
        is one-vs-rest if there is one label per sample, and multi-label if the target has the shape
        of the scores. `reduction` and `axis` of the loss are ignored.
    hessian : {"positive", "exact", "upper"}, default "positive"
        Which second derivatives to return; see the top of this module.
    floor : float >= 0, optional
        The smallest ratio of a sample's Hessian to its absolute gradient, unless "exact". By
        default 0.05 for focal losses and 0 for cross-entropies.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of those above, or "upper" is combined with `z_loss` or `softcap`,
        for which no bound is known.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> from fastce.objectives import Objective
    >>> focal, wrong = fastce.SigmoidFocalLoss(alpha=None), np.array([-4.0])
    >>> for hessian in ["exact", "positive"]:
    ...     print(Objective(focal, hessian=hessian).derivatives(wrong, [1]))
    (array([-1.08639585]), array([-0.04670326]))
    (array([-1.08639585]), array([0.05431979]))
    """

    loss: Loss
    _: KW_ONLY
    hessian: str = "positive"
    floor: float | None = None

    def __post_init__(self) -> None:
        checks_bridges.one_of_losses(self.loss, tuple(NAMES))
        loss: Any = self.loss
        floor = self.floor
        if floor is not None:
            floor = checks.number("floor", floor, low=0)
        elif isinstance(loss, SoftmaxFocalLoss | SigmoidFocalLoss):
            floor = FOCAL_FLOOR
        else:
            floor = 0.0
        if self.is_softmax:
            loss = replace(loss, axis=-1)
        own_sum = replace(loss, reduction="sum")
        self.__dict__.update(
            hessian=checks_bridges.hessian(self.hessian, self._is_plain),
            floor=floor,
            _sum=_hessians.PLAIN if own_sum == _hessians.PLAIN else own_sum,
            _mean=replace(loss, reduction="mean"),
        )

    if TYPE_CHECKING:  # set above, bypassing the frozen dataclass
        _sum: Any
        _mean: Any

    @property
    def is_softmax(self) -> bool:
        """Whether a sample has K scores that depend on each other."""
        return isinstance(self.loss, SoftmaxCrossEntropy | SoftmaxFocalLoss)

    @property
    def _is_plain(self) -> bool:
        """Whether the Hessian is that of a softmax or a sigmoid, and nothing else."""
        return not (getattr(self.loss, "z_loss", 0.0) or getattr(self.loss, "softcap", None))

    @property
    def name(self) -> str:
        """The name that the metrics report, for example "softmax_focal_loss"."""
        return next(name for kind, name in NAMES.items() if isinstance(self.loss, kind))

    def __deepcopy__(self, memo: Any) -> "Objective":
        """Return the objective itself, which is immutable.

        CatBoost copies its constructor arguments, and scikit-learn's `clone` then compares their
        identities.
        """
        return self

    def derivatives(
        self, scores: npt.ArrayLike, target: npt.ArrayLike, sample_weight: Any = None
    ) -> tuple[Array, Array]:
        """Return the gradient and the chosen Hessian of the weighted sum of the losses.

        Parameters
        ----------
        scores : array_like of float16, bfloat16, float32 or float64, (n,) or (n, K)
            Raw scores, in any memory order. Class-major scores are read in place, 16-bit scores
            converted to float32.
        target : array_like
            Labels (n,), of any dtype with integer values. For sigmoid losses with (n,) scores,
            numbers in [0, 1]. Sigmoid losses and `SoftmaxCrossEntropy` also accept targets in the
            shape of the scores: numbers in [0, 1], or probabilities.
        sample_weight : array_like, (n,), optional
            Finite. A negative weight changes the sign of gradient and Hessian.

        Returns
        -------
        grad, hess : array
            With the shape, dtype and memory order of the scores; float32 for 16-bit scores.

        Raises
        ------
        TypeError, ValueError, IndexError
            As raised by the loss; also for other shapes than those above, and for labels that are
            not integers.

        Examples
        --------
        >>> import numpy as np
        >>> import fastce
        >>> from fastce.objectives import XGBoostObjective
        >>> objective = XGBoostObjective(fastce.SoftmaxCrossEntropy())
        >>> grad, hess = objective.derivatives(np.zeros((1, 2)), np.array([1.0]))
        >>> print(grad, hess)
        [[ 0.5 -0.5]] [[0.5 0.5]]
        """
        scores, target, weight = self._batch(scores, target, sample_weight)
        negative = None
        if weight is not None and np.min(weight, initial=0) < 0:
            signed = weight if weight.dtype.kind == "f" else weight.astype(np.float64)
            weight, negative = np.abs(signed), weight < 0  # int8 has no 128
        _, grad, hess = self._sum.value_grad_hess(
            scores, target, sample_weight=weight, out=_hessians.empty_pair(scores)
        )
        if self.hessian != "exact":
            factor = 1.0
            if self.hessian == "upper" and isinstance(self.loss, SoftmaxFocalLoss):
                hess = _hessians.focal_bound(grad, hess, scores, target)
            elif self.is_softmax:
                factor = self._factor(scores.shape[-1])
            variants.core.raise_to_floor(
                hess, grad, factor, self.floor or 0.0, _hessians.LEAST_HESSIAN
            )
        if negative is not None:
            negative = negative.reshape(negative.shape + (1,) * (scores.ndim - negative.ndim))
            for array in (grad, hess):
                np.negative(array, out=array, where=negative)
        return grad, hess

    def value(
        self, scores: npt.ArrayLike, target: npt.ArrayLike, sample_weight: Any = None
    ) -> float:
        """Return the weighted mean of the losses, which the metrics report; see `derivatives`."""
        scores, target, weight = self._batch(scores, target, sample_weight)
        with contextlib.suppress(ValueError):
            return float(self._mean(scores, target, sample_weight=weight))
        # The mean's own error is about its denominator. A sum raises all others.
        self._sum(scores, target, sample_weight=weight)
        checks_bridges.weights_of_a_metric(weight)

    @np.errstate(all="ignore")
    def value_of_probabilities(
        self, probabilities: npt.ArrayLike, target: npt.ArrayLike, sample_weight: Any = None
    ) -> float:
        """Return the weighted mean of the losses, given probabilities instead of raw scores.

        With a built-in objective, a host predicts probabilities. They are converted back to scores:
        log-odds, or log p for softmax losses, so that `z_loss` and `softcap` see an lse of 0. A
        probability near 0 or 1 carries less information than a score, so the losses of confident
        predictions are less accurate. Probabilities below 1e-15 count as 1e-15.

        Parameters
        ----------
        probabilities : array_like of float32 or float64, (n,) or (n, K)
            In [0, 1]. The rows of softmax losses are distributions.
        target, sample_weight : array_like
            As for `derivatives`.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError, IndexError
            As raised by `derivatives`, and for a number that is not in [0, 1].

        Examples
        --------
        >>> import fastce
        >>> from fastce.objectives import Objective
        >>> round(Objective(fastce.BCEWithLogits()).value_of_probabilities([0.5, 0.75], [1, 1]), 6)
        0.490415
        """
        p = checks_bridges.predicted_probabilities(probabilities, self._softmax_name)
        scores = np.log(p) if self.is_softmax else np.log(p) - np.log1p(-p)
        least = _start.LEAST_SCORE
        return self.value(scores.clip(least, -least), target, sample_weight)

    @np.errstate(all="ignore")
    def initial_score(
        self, target: npt.ArrayLike, sample_weight: Any = None, *, classes: int | None = None
    ) -> Any:
        """Return the constant score with the smallest loss, from which boosting should start.

        A host starts a custom objective at the same score for every class. If a class is rare, the
        first trees then only move all scores towards its frequency. For plain cross-entropies, the
        constant is the log-odds, or the logarithms of the class frequencies.

        Parameters
        ----------
        target : array_like
            As for `derivatives`.
        sample_weight : array_like, (n,), optional
            Finite. Weights may be negative: the sum over each class counts, and the sum over all
            samples must be positive.
        classes : int, optional
            K, if the target holds labels. By default, one more than the largest label for softmax
            losses, and a single score (not one-vs-rest) for sigmoid losses.

        Returns
        -------
        float or array
            A float for one score per sample, otherwise (K,). Each class has a probability of at
            least 1e-15; a class without samples, or with a negative sum of weights, has exactly
            this. Without any samples, all classes are equal.
            Pass the score to the host once per sample: as ``base_margin`` of XGBoost's DMatrix (for
            new samples too), ``init_score`` of LightGBM's Dataset, or ``baseline`` of CatBoost's
            Pool. The latter two do not store it in the model, so add it to the predictions.

        Raises
        ------
        TypeError, ValueError, IndexError
            As raised by `derivatives`, and for weights whose sum is not positive, unless all are
            0.

        Examples
        --------
        >>> import fastce
        >>> from fastce.objectives import XGBoostObjective
        >>> objective = XGBoostObjective(fastce.BCEWithLogits())
        >>> round(objective.initial_score([0, 0, 0, 1]), 6)  # log(1/3)
        -1.098612
        >>> focal = XGBoostObjective(fastce.SigmoidFocalLoss(gamma=2.0, alpha=None))
        >>> round(focal.initial_score([0, 0, 0, 1]), 6)
        -0.410367
        """
        if classes is not None:
            classes = checks_bridges.number_of_classes(classes)
        y = checks_bridges.start_target(
            target, classes, self.is_softmax, getattr(self.loss, "takes_probabilities", True)
        )
        weight = _start.start_weights(sample_weight, len(y))
        if self.is_softmax:
            return _start.softmax_start(self._sum, y, weight, classes)
        if classes is not None and y.ndim == 1:
            y = _hessians.one_hot(y, classes, np.float64, "C")
        columns = y[:, None] if y.ndim == 1 else y
        start = _start.sigmoid_start(self._sum, columns, weight)
        return float(start[0]) if y.ndim == 1 else start

    # The host's arrays ----------------------------------------------------------------------------

    def _factor(self, classes: int) -> float:
        """Return the factor of the diagonal of a softmax loss."""
        return 2.0

    @property
    def _softmax_name(self) -> str | None:
        return type(self.loss).__name__ if self.is_softmax else None

    @np.errstate(all="ignore")  # rounded targets may become subnormal or 0
    def _batch(
        self, scores: Any, target: Any, sample_weight: Any
    ) -> tuple[Array, Array, Array | None]:
        """Return scores, target and weights in the shapes and dtypes that the loss accepts."""
        scores = checks_bridges.boosting_scores(scores, self._softmax_name)
        scores = scores.astype(working_type(scores), copy=False)  # also from another byte order
        target = checks_bridges.boosting_target(target, scores)
        weight = checks_bridges.boosting_weight(sample_weight, scores)
        if self.is_softmax and target.ndim == 1:
            return scores, checks_bridges.integral_labels(target), weight
        if scores.ndim == 2:
            if target.ndim == 1 and scores.shape[1] == 1:
                target = target[:, None]
            elif target.ndim == 1:
                labels, is_class_major = checks_bridges.integral_labels(target), scores.flags.fnc
                target = _hessians.one_hot(
                    labels, scores.shape[1], scores.dtype, "F" if is_class_major else "C"
                )
            if weight is not None and weight.ndim == 1 and not self.is_softmax:
                weight = weight[:, None]
        # In the dtype of the scores, both are read in place, which saves more than a copy costs.
        if target.dtype.kind == "f" or self.is_softmax:
            target = target.astype(scores.dtype, copy=False)
        if weight is not None and np.can_cast(weight.dtype, scores.dtype):
            weight = weight.astype(scores.dtype, copy=False)
        return scores, target, weight


class SklearnMetric:
    """The mean loss with the signature of scikit-learn's metrics and the name of the loss."""

    def __init__(self, name: str, value: Callable[..., float]) -> None:
        self.__name__ = name
        self.value = value

    def __call__(self, y_true: Array, y_score: Array, sample_weight: Any = None) -> float:
        return self.value(y_score, y_true, sample_weight)
