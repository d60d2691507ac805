"""Objectives, metrics and initial scores for XGBoost, LightGBM and CatBoost, from any loss.

A boosting library asks its objective for the gradient and the Hessian's diagonal of the *sum* of
the losses, each times its sample's weight, by the raw scores. ``XGBoostObjective(loss)`` and its
siblings give them with the host's signature, shapes and memory order. None imports its host.

Two things stand between a loss and a boosted tree, and both are about the Hessian.

1. *It can be negative*: focal loss is not convex where a prediction is badly wrong. A leaf's value
   is −Σg / (Σh + λ), so that a negative h steps uphill or, at Σh + λ = 0, anywhere.
2. *The diagonal is not the whole*: trees of all K classes step at once. For cross-entropy the
   matrix is H = diag(p) − p·pᵀ, and a step with a diagonal D cannot overshoot (to second order) if
   D − H is positive semi-definite. D_j = 2·p_j (1−p_j) is enough: D − H has p_j (1−p_j) on its
   diagonal, and the other entries of row j add up to p_j·Σ_{k≠j} p_k, which is the same (diagonal
   dominance). XGBoost steps with this bound. LightGBM steps with K/(K−1)·p_j (1−p_j), as Friedman
   does: the K scores have one degree of freedom too many. CatBoost solves with the matrix itself.

The Hessians to choose from:

``"positive"`` (default)
    The diagonal, times the host's own factor for softmax losses (2, K/(K−1), or CatBoost's matrix),
    and then at least ``floor·|gradient|`` and at least 1e-16. With a plain cross-entropy it is what
    the host itself computes, and so is the model.
``"exact"``
    The second derivatives as they are. They may be negative.
``"upper"``
    A diagonal D with D − H positive semi-definite, for each sample. Sigmoid losses have no other
    entries: it is the same as "positive". Cross-entropy: twice the diagonal. Softmax focal loss has
    H = a·(diag(p) − p·pᵀ) + b·v·vᵀ with v_j = δ_jy − p_j, a = −A and b = p_y·B in the terms of
    `SoftmaxFocalLoss`. The first part is bounded as above; for the second, v·vᵀ is at most
    ``diag(|v_j|·Σ_k |v_k|)``, and ``Σ_k |v_k| = 2q``. Hence
    ``D_j = 2a·p_j (1−p_j) + 2·max(b, 0)·q·|v_j|``.

References
----------
J. H. Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics
29(5), 2001; T. Chen, C. Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016; D. Böhning,
"Multinomial Logistic Regression Algorithm", 1992 (bounds of the Hessian).
"""

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastce import _boosting, _checks, _checks_bridges
from fastce._loss import Array, Loss
from fastce.losses import BCEWithLogits, SigmoidFocalLoss, SoftmaxCrossEntropy, SoftmaxFocalLoss
from fastce.softmax import softmax

__all__ = ["CatBoostObjective", "LightGBMObjective", "Objective", "XGBoostObjective"]

# Of |gradient|, where a loss is not convex: no sample asks for a step of more than 1/0.05 = 20. At
# γ = 2 the exact ratio is lower than that for p_t < 0.08 only.
FOCAL_FLOOR = 0.05


@dataclass(frozen=True)
class Objective:
    """A loss and a rule for its Hessian: what the objectives of all hosts share.

    Use the class that is named after your host. This one serves a host that is not listed, through
    `derivatives` and `value`; its factor for softmax losses is XGBoost's 2.

    Parameters
    ----------
    loss : SoftmaxCrossEntropy, SoftmaxFocalLoss, BCEWithLogits or SigmoidFocalLoss
        Softmax losses take K scores a sample, sigmoid losses one. With K scores, a sigmoid loss is
        one-vs-rest for a label a sample, and multi-label for targets of the scores' shape. Its
        `reduction` and `axis` are the host's business, and not used.
    hessian : {"positive", "exact", "upper"}, default "positive"
        Which second derivatives: see the top of this module.
    floor : float >= 0, optional
        The least ratio of a sample's Hessian to its absolute gradient, unless "exact". By default
        0.05 for focal losses, and 0 for cross-entropies.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of those above, or "upper" is asked for with `z_loss` or `softcap`,
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
        losses = (SoftmaxCrossEntropy, SoftmaxFocalLoss, BCEWithLogits, SigmoidFocalLoss)
        loss: Any = _checks_bridges.boosted_loss(self.loss, losses)
        floor = self.floor
        if floor is not None:
            floor = _checks.number("floor", floor, low=0)
        elif isinstance(loss, SoftmaxFocalLoss | SigmoidFocalLoss):
            floor = FOCAL_FLOOR
        else:
            floor = 0.0
        if self.is_softmax:
            loss = replace(loss, axis=-1)
        self.__dict__.update(
            hessian=_checks_bridges.hessian(self.hessian, self._is_plain),
            floor=floor,
            _sum=replace(loss, reduction="sum"),
            _mean=replace(loss, reduction="mean"),
        )

    if TYPE_CHECKING:  # set above, past the frozen dataclass
        _sum: Any
        _mean: Any

    @property
    def is_softmax(self) -> bool:
        """Whether a sample has K scores that act on one another."""
        return isinstance(self.loss, SoftmaxCrossEntropy | SoftmaxFocalLoss)

    @property
    def _is_plain(self) -> bool:
        """Whether the Hessian is that of a softmax or a sigmoid, and nothing else."""
        return not (getattr(self.loss, "z_loss", 0.0) or getattr(self.loss, "softcap", None))

    @property
    def name(self) -> str:
        """The name that the metrics report, such as "softmax_focal_loss"."""
        return _NAMES[type(self.loss)]

    def derivatives(
        self, scores: npt.ArrayLike, target: npt.ArrayLike, sample_weight: Any = None
    ) -> tuple[Array, Array]:
        """Return the gradient and the chosen Hessian of the sum of the losses, times their weights.

        Parameters
        ----------
        scores : array_like of float32 or float64, (n,) or (n, K)
            Raw scores, in any memory order: class-major ones are read in place.
        target : array_like
            Labels (n,), of any type that holds integers; for sigmoid losses of (n,) scores, numbers
            in [0, 1]; or of the scores' shape, for sigmoid losses.
        sample_weight : array_like, (n,), optional
            Finite, at least 0.

        Returns
        -------
        grad, hess : array
            Of the scores' shape, dtype and memory order.

        Raises
        ------
        TypeError, ValueError, IndexError
            As the loss raises them; and for labels that are not integers.

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
        scores = np.asarray(scores)
        target, weight = self._batch(scores, target, sample_weight)
        _, grad, hess = self._sum.value_grad_hess(scores, target, sample_weight=weight)
        if self.hessian == "exact":
            return grad, hess
        factor = 1.0
        if self.hessian == "upper" and isinstance(self.loss, SoftmaxFocalLoss):
            hess = _boosting.focal_bound(grad, hess, softmax(scores), target)
        elif self.is_softmax:
            factor = self._factor(scores.shape[-1])
        _boosting.raise_to_floor(hess, grad, factor, self.floor or 0.0)
        return grad, hess

    def value(
        self, scores: npt.ArrayLike, target: npt.ArrayLike, sample_weight: Any = None
    ) -> float:
        """Return the weighted mean of the losses: what the metrics report; see `derivatives`."""
        scores = np.asarray(scores)
        target, weight = self._batch(scores, target, sample_weight)
        return float(self._mean(scores, target, sample_weight=weight))

    def initial_score(
        self, target: npt.ArrayLike, sample_weight: Any = None, *, classes: int | None = None
    ) -> Any:
        """Return the constant score with the least loss: where boosting should start.

        A host starts a custom objective at 0, that is at equal probabilities. Where a class is
        rare, the first trees then do no more than move all scores to its share. For plain
        cross-entropies the constant is the log-odds, or the logarithms of the classes' shares.

        Parameters
        ----------
        target : array_like
            As for `derivatives`: labels (n,); for sigmoid losses also numbers in [0, 1], of (n,) or
            (n, K).
        sample_weight : array_like, (n,), optional
            Finite, at least 0.
        classes : int, optional
            K, for labels: by default one more than the largest for softmax losses, and none (one
            score, not one-vs-rest) for sigmoid losses.

        Returns
        -------
        float or array
            A float for one score a sample; (K,) otherwise. A class without samples has −34.5.
            Give it to the host once a sample: ``base_margin`` of XGBoost's DMatrix (of new samples,
            too), ``init_score`` of LightGBM's Dataset, ``baseline`` of CatBoost's Pool. The latter
            two do not keep it in the model: add it to the predictions.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `derivatives` raises them.

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
        y = np.asarray(target)
        weight = _checks.sample_weight(sample_weight, y.shape[:1])
        if self.is_softmax:
            return _boosting.softmax_start(
                self._sum, _checks_bridges.integral_labels(y), weight, classes
            )
        if classes is not None:
            y = _boosting.one_hot(_checks_bridges.integral_labels(y), classes, np.float64, "C")
        start = _boosting.sigmoid_start(self._sum, y.reshape(len(y), -1), weight)
        return float(start[0]) if y.ndim == 1 else start

    # What is to be done with the host's arrays ----------------------------------------------------

    def _factor(self, classes: int) -> float:
        """Return what the diagonal of a softmax loss is multiplied by."""
        return 2.0

    def _batch(self, scores: Array, target: Any, sample_weight: Any) -> tuple[Array, Array | None]:
        """Return target and weights of the shapes and types that the loss accepts."""
        weight = None if sample_weight is None else np.asarray(sample_weight)
        if weight is not None and weight.size == 0:  # XGBoost's way to say none
            weight = None
        target = np.asarray(target)
        if self.is_softmax:
            return _checks_bridges.integral_labels(target), weight
        if scores.ndim == 2:
            if target.size == scores.size:
                target = target.reshape(scores.shape)
            elif target.ndim == 1:
                labels, is_class_major = _checks_bridges.integral_labels(target), scores.flags.fnc
                target = _boosting.one_hot(
                    labels, scores.shape[1], scores.dtype, "F" if is_class_major else "C"
                )
            if weight is not None and weight.ndim == 1:
                weight = weight[:, None]
        # In the scores' type they are read in place, which saves more than the copy costs.
        if target.dtype.kind == "f":
            target = target.astype(scores.dtype, copy=False)
        if weight is not None and weight.dtype.kind == "f":
            weight = weight.astype(scores.dtype, copy=False)
        return target, weight


# The hosts ----------------------------------------------------------------------------------------


class _SklearnMetric:
    """The mean loss with the signature of scikit-learn's metrics, under the loss's name."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.__name__ = objective.name

    def __call__(self, y_true: Array, y_score: Array, sample_weight: Any = None) -> float:
        return self.objective.value(y_score, y_true, sample_weight)


class XGBoostObjective(Objective):
    """An objective for XGBoost, and metrics to go with it.

    The instance is ``obj`` of ``xgboost.train``, and `metric` is its ``custom_metric``. For
    ``XGBClassifier``, `sklearn` is the ``objective`` and `sklearn_metric` the ``eval_metric``.
    Predictions are raw scores: ask for them with ``output_margin=True``. Softmax losses need
    ``num_class``.

    Parameters and errors are those of `Objective`.

    Examples
    --------
    >>> import numpy as np
    >>> import xgboost
    >>> import fastce
    >>> from fastce.objectives import XGBoostObjective
    >>> data = xgboost.DMatrix(np.arange(40.0).reshape(20, 2), np.arange(20) >= 15)
    >>> focal = XGBoostObjective(fastce.SigmoidFocalLoss(gamma=2.0))
    >>> parameters = {"min_child_weight": 0, "disable_default_eval_metric": True}
    >>> booster = xgboost.train(parameters, data, 20, obj=focal, custom_metric=focal.metric)
    >>> booster.predict(data, output_margin=True)[[0, 19]] > 0
    array([False,  True])
    """

    def __call__(self, predt: Array, dtrain: Any) -> tuple[Array, Array]:
        """Return gradient and Hessian, (n,) or (n, K) as the raw scores ``predt`` are."""
        return self.derivatives(predt, dtrain.get_label(), dtrain.get_weight())

    def metric(self, predt: Array, dtrain: Any) -> tuple[str, float]:
        """Return the name and the mean of the loss."""
        return self.name, self.value(predt, dtrain.get_label(), dtrain.get_weight())

    def sklearn(
        self, y_true: Array, y_pred: Array, sample_weight: Any = None
    ) -> tuple[Array, Array]:
        """Return gradient and Hessian, as the scikit-learn interface asks for them."""
        return self.derivatives(y_pred, y_true, sample_weight)

    @property
    def sklearn_metric(self) -> _SklearnMetric:
        """The mean loss, as a function of ``(y_true, y_score, sample_weight=None)``."""
        return _SklearnMetric(self)


class LightGBMObjective(Objective):
    """An objective for LightGBM, and metrics to go with it.

    The instance is ``params["objective"]`` of ``lightgbm.train``, and `metric` is its ``feval``.
    For ``LGBMClassifier``, `sklearn` is the ``objective`` and `sklearn_metric` the ``eval_metric``
    of its ``fit``. Predictions are raw scores. Softmax losses need ``num_class``.

    Parameters and errors are those of `Objective`.

    Examples
    --------
    >>> import lightgbm
    >>> import numpy as np
    >>> import fastce
    >>> from fastce.objectives import LightGBMObjective
    >>> data = lightgbm.Dataset(np.arange(80.0).reshape(80, 1), np.arange(80) // 30)
    >>> objective = LightGBMObjective(fastce.SoftmaxCrossEntropy(label_smoothing=0.01))
    >>> parameters = {"objective": objective, "num_class": 3, "verbose": -1}
    >>> booster = lightgbm.train(parameters, data, 20, feval=objective.metric)
    >>> booster.predict([[5], [45], [75]]).argmax(axis=1)
    array([0, 1, 2])
    """

    def __call__(self, preds: Array, train_data: Any) -> tuple[Array, Array]:
        """Return gradient and Hessian, (n,) or (n, K) over class-major memory as ``preds`` are."""
        return self.derivatives(preds, train_data.get_label(), train_data.get_weight())

    def metric(self, preds: Array, eval_data: Any) -> tuple[str, float, bool]:
        """Return the name and the mean of the loss, and that less is better."""
        value = self.value(preds, eval_data.get_label(), eval_data.get_weight())
        return self.name, value, False

    # LightGBM counts the parameters: three, without defaults.

    def sklearn(self, y_true: Array, y_pred: Array, weight: Any) -> tuple[Array, Array]:
        """Return gradient and Hessian, as the scikit-learn interface asks for them."""
        return self.derivatives(y_pred, y_true, weight)

    def sklearn_metric(self, y_true: Array, y_pred: Array, weight: Any) -> tuple[str, float, bool]:
        """Return the name and the mean of the loss, and that less is better."""
        return self.name, self.value(y_pred, y_true, weight), False

    def _factor(self, classes: int) -> float:
        return 2.0 if self.hessian == "upper" else classes / max(classes - 1, 1)


class CatBoostObjective(Objective):
    """An objective for CatBoost, which is its own metric.

    The instance is ``loss_function`` and ``eval_metric`` of ``CatBoostClassifier``. Predictions are
    raw scores: ``prediction_type="RawFormulaVal"``. CatBoost's own choice of the leaves' values for
    custom objectives is one gradient step; ``leaf_estimation_method="Newton"`` makes it use the
    Hessian. Softmax losses need ``classes_count``, and are one Python call a row: slow.

    With "positive" and "exact", the Hessian of a softmax loss is the whole matrix:
    c·(diag(p) − p·pᵀ) for cross-entropy, and for focal loss the one at the top of the module, for
    "positive" with max(b, 0) in the place of b. With `z_loss` or `softcap` it is the diagonal.
    CatBoost maximises: what it is given are derivatives of minus the loss.

    Parameters and errors are those of `Objective`.

    Examples
    --------
    >>> import numpy as np
    >>> from catboost import CatBoostClassifier
    >>> import fastce
    >>> from fastce.objectives import CatBoostObjective
    >>> focal = CatBoostObjective(fastce.SigmoidFocalLoss(gamma=2.0))
    >>> model = CatBoostClassifier(
    ...     loss_function=focal, eval_metric=focal, leaf_estimation_method="Newton",
    ...     iterations=20, verbose=False, allow_writing_files=False,
    ... )
    >>> x = np.arange(40.0).reshape(20, 2)
    >>> model = model.fit(x, np.arange(20) >= 15)
    >>> model.predict(x, prediction_type="RawFormulaVal")[[0, 19]] > 0
    array([False,  True])
    """

    no_jit = True  # else CatBoost tries to compile the methods with Numba, and warns that it cannot

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> Array:
        """Return the two derivatives of minus the loss, (n, 2), for one score a sample."""
        derivatives = self.derivatives(approxes, targets, weights)
        return -np.stack(derivatives, axis=-1)

    def calc_ders_multi(self, approxes: Any, target: Any, weight: Any) -> tuple[Array, Array]:
        """Return gradient (K,) and Hessian (K, K) of minus the loss, for one sample."""
        scores = np.asarray(approxes, np.float64)[None, :]
        labels = np.array([target])
        weights = None if weight is None else np.array([weight], np.float64)
        if not self.is_softmax or self.hessian == "upper" or not self._is_plain:
            grad, hess = self.derivatives(scores, labels, weights)
            return -grad[0], np.diag(-hess[0])
        labels, _ = self._batch(scores, labels, None)
        _, grad, hess = self._sum.value_grad_hess(scores, labels, sample_weight=weights)
        if labels[0] == self._sum.ignore_index:
            return grad[0], np.diag(hess[0])  # zeros
        p, label = softmax(scores[0] * getattr(self.loss, "logit_scale", 1.0)), int(labels[0])
        if isinstance(self.loss, SoftmaxCrossEntropy):
            matrix = _boosting.cross_entropy_matrix(self.loss, p, label)
            matrix *= 1.0 if weight is None else weight
        else:
            is_clipped = self.hessian == "positive"
            matrix = _boosting.focal_matrix(p, label, grad[0, label], hess[0, label], is_clipped)
        return -grad[0], -matrix

    # The metric -----------------------------------------------------------------------------------

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """Return the sum of the losses, times their weights, and the sum of the weights."""
        scores = np.asarray(approxes[0]) if len(approxes) == 1 else np.stack(approxes).T
        y, weights = self._batch(scores, target, weight)
        total = self._sum(scores, y, sample_weight=weights)
        counted: Array = np.ones(y.shape) if weights is None else weights
        if self.is_softmax:
            counted = counted * (y != self._sum.ignore_index)
            if isinstance(self.loss, SoftmaxCrossEntropy) and self.loss.class_weight is not None:
                counted = counted * self.loss.class_weight.take(y, mode="clip")
        return float(total), float(np.broadcast_to(counted, y.shape).sum(dtype=np.float64))

    def get_final_error(self, error: float, weight: float) -> float:
        """Return the weighted mean."""
        return error / weight if weight else math.nan

    def is_max_optimal(self) -> bool:
        """Return that less is better."""
        return False


_NAMES = {
    SoftmaxCrossEntropy: "softmax_cross_entropy",
    SoftmaxFocalLoss: "softmax_focal_loss",
    BCEWithLogits: "bce_with_logits",
    SigmoidFocalLoss: "sigmoid_focal_loss",
}
