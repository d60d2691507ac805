r"""Objectives, metrics and initial scores for XGBoost, LightGBM and CatBoost.

The objective of a boosting library (the *host*) returns the gradient and the diagonal of the
Hessian of the weighted *sum* of the losses, with respect to the raw scores.
``XGBoostObjective(loss)`` and the other classes do so with the host's signature, shapes and memory
order. None of them imports its host. The loss may be any except the divergence.

The Hessian of a loss cannot always be used as it is, for two reasons:

1. *It can be negative.* Focal loss is not convex if a prediction is badly wrong. The value of a
   leaf is :math:`−\sum g / (\sum h + λ)`. With a negative h the step goes uphill, and it is
   unbounded if the denominator is close to 0.
2. *The diagonal is not the whole matrix.* The scores of all K classes change at once. For
   cross-entropy the matrix is :math:`H = \mathrm{diag}(p) − p\,p^T`. A step with a diagonal D
   cannot overshoot (to second order) if D − H is positive semi-definite.
   :math:`D_j = 2\,p_j (1−p_j)` is enough: D − H has :math:`p_j (1−p_j)` on its diagonal, and the
   absolute values of the other entries of row j add up to the same number,
   :math:`p_j \sum_{k≠j} p_k` (diagonal dominance). XGBoost uses this bound. LightGBM uses
   :math:`p_j (1−p_j)\,K/(K−1)`, after Friedman, because the K scores have one redundant degree of
   freedom. CatBoost solves with the matrix.

There are three choices of the Hessian:

``"positive"`` (default)
    The diagonal, times the host's own factor for softmax losses (2, K/(K−1), or CatBoost's matrix).
    The result is then raised to at least `floor` times the absolute gradient, and at least 1e-16
    (`CatBoostObjective` says how its matrix is raised). With plain cross-entropy this is the host's
    own Hessian, and gives the same model if both start at the same score.
``"exact"``
    The second derivatives as they are. They may be negative.
``"upper"``
    A diagonal D for which D − H is positive semi-definite, for each sample. For sigmoid losses it
    is the same as "positive", and for cross-entropy twice the diagonal. Softmax focal loss has
    :math:`H = a\,(\mathrm{diag}(p) − p\,p^T) + b\,v\,v^T` with :math:`v_j = δ_{jy} − p_j`,
    :math:`a = −A` and :math:`b = p_y B`, with A and B from `SoftmaxFocalLoss`. The first part is
    bounded as above. In the second, :math:`v\,v^T` is at most the diagonal matrix of
    :math:`|v_j| \sum_k |v_k|`, and :math:`\sum_k |v_k| = 2q`. Hence
    :math:`D_j = 2a\,p_j (1−p_j) + 2 \max(b, 0)\,q\,|v_j|`.

References
----------
J. H. Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics
29(5), 2001; T. Chen, C. Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016; D. Böhning,
"Multinomial Logistic Regression Algorithm", 1992 (bounds of the Hessian).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastce._call import checks, checks_bridges
from fastce._call.layout import Array
from fastce.losses import SoftmaxCrossEntropy
from fastce.objectives import _hessians, _host
from fastce.objectives._objective import Objective, SklearnMetric

__all__ = ["CatBoostObjective", "LightGBMObjective", "Objective", "XGBoostObjective"]


class XGBoostObjective(Objective):
    """An objective for XGBoost, with matching metrics.

    Pass the instance as ``obj`` of ``xgboost.train``, and `metric` as ``custom_metric``. For
    ``XGBClassifier``, pass `sklearn` as ``objective`` and `sklearn_metric` as ``eval_metric``.
    Softmax losses need ``num_class``, unless the labels of the DMatrix are probabilities, (n, K).
    ``XGBClassifier`` sets it, but for two classes it would apply the sigmoid to each of the two
    scores, so softmax losses raise an error.
    ``output_margin=True`` returns raw scores. With a built-in objective, XGBoost passes
    probabilities to metrics. In that case, use `probability_metric` and
    `sklearn_probability_metric`; the other metrics raise an error. XGBoost does not accept negative
    weights, and its ``scale_pos_weight`` raises an error.

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

    # XGBoost's classifier, which does not accept an instance, passes sample_weight by name.
    def __call__(self, predt: Array, dtrain: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """Return gradient and Hessian, in the shape of the raw scores ``predt``, (n,) or (n, K)."""
        checks_bridges.host_data(dtrain, "the objective itself", "its method sklearn")
        _host.xgboost_weights()
        if not np.size(predt):
            return _of_no_samples()
        labels = _of_scores_shape(dtrain.get_label(), predt)
        return self.derivatives(predt, labels, dtrain.get_weight())

    def metric(self, predt: Array, dtrain: Any) -> tuple[str, float]:
        """Return the name and the mean of the loss, for raw scores."""
        checks_bridges.host_data(dtrain, "metric", "sklearn_metric")
        _host.xgboost_metric("probability_metric")
        return self.name, self._mean_of(self.value, predt, dtrain.get_label(), dtrain.get_weight())

    def probability_metric(self, predt: Array, dtrain: Any) -> tuple[str, float]:
        """Return name and mean of the loss, for the probabilities of built-in objectives."""
        checks_bridges.host_data(dtrain, "probability_metric", "sklearn_probability_metric")
        _host.xgboost_metric("metric", takes_probabilities=True)
        labels, weight = dtrain.get_label(), dtrain.get_weight()
        return self.name, self._mean_of(self.value_of_probabilities, predt, labels, weight)

    def sklearn(
        self, y_true: Array, y_pred: Array, sample_weight: Any = None
    ) -> tuple[Array, Array]:
        """Return gradient and Hessian for the scikit-learn interface."""
        checks_bridges.sklearn_scores(y_pred, "sklearn", "the objective itself")
        _host.xgboost_weights()
        if self.is_softmax:
            _host.xgboost_classifier(type(self.loss).__name__)
        if not np.size(y_pred):
            return _of_no_samples()
        return self.derivatives(y_pred, _of_scores_shape(y_true, y_pred), sample_weight)

    @property
    def sklearn_metric(self) -> SklearnMetric:
        """The mean loss of raw scores, as a function ``(y_true, y_score, sample_weight=None)``."""
        return SklearnMetric(self.name, self._value_of_scores)

    @property
    def sklearn_probability_metric(self) -> SklearnMetric:
        """The same function for the probabilities of built-in objectives."""
        return SklearnMetric(self.name, self._value_of_probabilities)

    def _value_of_scores(self, scores: Array, target: Array, sample_weight: Any) -> float:
        checks_bridges.sklearn_scores(scores, "sklearn_metric", "metric")
        _host.xgboost_metric("sklearn_probability_metric")
        return self._mean_of(self.value, scores, target, sample_weight)

    def _value_of_probabilities(self, p: Array, target: Array, sample_weight: Any) -> float:
        checks_bridges.sklearn_scores(p, "sklearn_probability_metric", "probability_metric")
        _host.xgboost_metric("sklearn_metric", takes_probabilities=True)
        return self._mean_of(self.value_of_probabilities, p, target, sample_weight)

    @staticmethod
    def _mean_of(
        value: Callable[..., float], predictions: Array, target: Array, sample_weight: Any
    ) -> float:
        """Return the mean of the host's arrays; 0 for a worker without rows.

        On Dask, XGBoost averages over all workers. NaN would spread to the others, and 0 only
        scales the average, by the same factor in every round.
        """
        if not np.size(predictions):
            return 0.0
        return value(predictions, _of_scores_shape(target, predictions), sample_weight)


def _of_no_samples() -> tuple[Array, Array]:
    """Return derivatives of no samples, (0, K) or (0,).

    On Dask, a worker without rows gets scores of shape (0,), whatever the number of classes, but
    XGBoost needs a gradient with as many columns as on the other workers.
    """
    classes = _host.xgboost_columns()
    nothing = np.zeros((0, classes) if classes > 1 else 0, np.float32)
    return nothing, nothing.copy()


def _of_scores_shape(labels: Array, scores: Array) -> Array:
    """Return labels in the shape of the scores; XGBoost passes (n, K) as (n·K,)."""
    scores, labels = np.asarray(scores), checks.as_array("target", labels)
    is_flat = scores.ndim == 2 and scores.shape[1] > 1 and labels.shape == (scores.size,)
    return labels.reshape(scores.shape) if is_flat else labels


class LightGBMObjective(Objective):
    """An objective for LightGBM, with matching metrics.

    Pass the instance as ``params["objective"]`` of ``lightgbm.train``, and `metric` as ``feval``.
    For ``LGBMClassifier``, pass `sklearn` as ``objective``, and `sklearn_metric` as ``eval_metric``
    of ``fit``. Softmax losses need ``num_class`` in ``train``. Predictions are raw scores, even
    those of ``LGBMClassifier.predict``.

    Pass ``metric="None"``. Otherwise the classifier also evaluates LightGBM's own metric, which
    treats raw scores as probabilities, and early stopping uses it. The metrics warn in this case.
    With a built-in objective, LightGBM passes probabilities to metrics. In that case, use
    `probability_metric` and `sklearn_probability_metric`; the other metrics raise an error. Weights
    may be negative. ``is_unbalance`` and ``scale_pos_weight``, which LightGBM would ignore, raise
    an error.

    Parameters and errors are those of `Objective`.

    Examples
    --------
    >>> import lightgbm
    >>> import numpy as np
    >>> import fastce
    >>> from fastce.objectives import LightGBMObjective
    >>> data = lightgbm.Dataset(np.arange(80.0).reshape(80, 1), np.arange(80) // 30)
    >>> objective = LightGBMObjective(fastce.SoftmaxCrossEntropy(label_smoothing=0.01))
    >>> parameters = {"objective": objective, "num_class": 3, "metric": "None", "verbose": -1}
    >>> booster = lightgbm.train(parameters, data, 20, feval=objective.metric)
    >>> booster.predict([[5], [45], [75]]).argmax(axis=1)
    array([0, 1, 2])
    """

    def __call__(self, preds: Array, train_data: Any) -> tuple[Array, Array]:
        """Return gradient and Hessian, in the shape and memory order of the raw scores."""
        checks_bridges.host_data(train_data, "the objective itself", "its method sklearn")
        _host.lightgbm_weights()
        return self.derivatives(preds, train_data.get_label(), train_data.get_weight())

    def metric(self, preds: Array, eval_data: Any) -> tuple[str, float, bool]:
        """Return name, mean loss of raw scores, and False, because lower is better."""
        checks_bridges.host_data(eval_data, "metric", "sklearn_metric")
        _host.lightgbm_metric("probability_metric")
        value = self.value(preds, eval_data.get_label(), eval_data.get_weight())
        return self.name, value, False

    def probability_metric(self, preds: Array, eval_data: Any) -> tuple[str, float, bool]:
        """Return the same for the probabilities of built-in objectives."""
        checks_bridges.host_data(eval_data, "probability_metric", "sklearn_probability_metric")
        _host.lightgbm_metric("metric", takes_probabilities=True)
        labels, weight = eval_data.get_label(), eval_data.get_weight()
        return self.name, self.value_of_probabilities(preds, labels, weight), False

    # LightGBM counts the parameters: there must be three, without defaults.

    def sklearn(self, y_true: Array, y_pred: Array, weight: Any) -> tuple[Array, Array]:
        """Return gradient and Hessian for the scikit-learn interface."""
        checks_bridges.sklearn_scores(y_pred, "sklearn", "the objective itself")
        _host.lightgbm_weights()
        return self.derivatives(y_pred, y_true, weight)

    def sklearn_metric(self, y_true: Array, y_pred: Array, weight: Any) -> tuple[str, float, bool]:
        """Return name, mean loss of raw scores, and False, because lower is better."""
        checks_bridges.sklearn_scores(y_pred, "sklearn_metric", "metric")
        _host.lightgbm_metric("sklearn_probability_metric")
        return self.name, self.value(y_pred, y_true, weight), False

    def sklearn_probability_metric(
        self, y_true: Array, y_pred: Array, weight: Any
    ) -> tuple[str, float, bool]:
        """Return the same for the probabilities of built-in objectives."""
        checks_bridges.sklearn_scores(y_pred, "sklearn_probability_metric", "probability_metric")
        _host.lightgbm_metric("sklearn_metric", takes_probabilities=True)
        return self.name, self.value_of_probabilities(y_pred, y_true, weight), False

    def _factor(self, classes: int) -> float:
        return 2.0 if self.hessian == "upper" else classes / max(classes - 1, 1)


class CatBoostObjective(Objective):
    r"""An objective for CatBoost, which is also its metric.

    Pass the instance as ``loss_function`` and ``eval_metric`` of ``CatBoostClassifier``. It may
    also be the ``eval_metric`` of a built-in objective. Pass ``class_names``, a tuple of the labels
    in order (with a list, scikit-learn's ``clone`` rejects the model). Without them, the model has
    no ``classes_``, and its ``predict`` and ``score`` raise an error. With two classes, CatBoost
    would then ignore ``class_weights`` and ``auto_class_weights``, so the objective raises an
    error. With three or more, it raises an error if one of them has no sample in the training data,
    because CatBoost would give the predictions the wrong labels. Set ``learning_rate``, which
    CatBoost chooses only for its own objectives. Softmax losses are slow, because CatBoost makes
    one Python call per row. It does not accept negative weights.
    ``prediction_type="RawFormulaVal"`` returns raw scores.

    With "positive" and "exact", the Hessian of a softmax loss is the whole matrix: a multiple of
    :math:`\mathrm{diag}(p) − p\,p^T` for cross-entropy, and the one at the top of the module for
    focal loss. For "positive", a multiple of :math:`v\,v^T` is added if b is negative, so that b
    becomes 0, or if the diagonal at the label is less than `floor` times the absolute gradient. A
    single sample can then raise the score of its label, relative to the others, by at most
    1/`floor`. (With label smoothing, this is not exact.) With `z_loss` or `softcap`, "exact" is the
    diagonal, and "positive" twice the diagonal, for the same reason as in XGBoost. CatBoost
    maximises, so it gets the derivatives of minus the loss.

    Parameters and errors are those of `Objective`.

    Examples
    --------
    >>> import numpy as np
    >>> from catboost import CatBoostClassifier
    >>> import fastce
    >>> from fastce.objectives import CatBoostObjective
    >>> focal = CatBoostObjective(fastce.SigmoidFocalLoss(gamma=2.0))
    >>> model = CatBoostClassifier(
    ...     loss_function=focal, eval_metric=focal, class_names=(0, 1),
    ...     iterations=20, verbose=False, allow_writing_files=False,
    ... )
    >>> x, y = np.arange(40.0).reshape(20, 2), np.arange(20) // 15
    >>> model = model.fit(x, y)
    >>> model.predict(x)[[0, 19]]
    array([0, 1])
    >>> bool(model.score(x, y) > 0.9)
    True
    """

    no_jit = True  # otherwise CatBoost tries to compile the methods with Numba, and warns

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> Array:
        """Return both derivatives of minus the loss, (n, 2), for one score per sample."""
        _host.catboost_weights()
        _host.catboost_classes(1)
        derivatives = self.derivatives(approxes, targets, weights)
        return -np.stack(derivatives, axis=-1)

    def calc_ders_multi(self, approxes: Any, target: Any, weight: Any) -> tuple[Array, Array]:
        """Return gradient (K,) and Hessian (K, K) of minus the loss, for one sample."""
        scores = np.asarray(approxes, np.float64)[None]
        _host.catboost_classes(scores.shape[-1])
        label = checks_bridges.label_of_a_row(target)
        weights = None if weight is None else [weight]
        if not self.is_softmax or self.hessian == "upper" or not self._is_plain:
            grad, hess = self.derivatives(scores, label, weights)
            return -grad[0], np.diag(-hess[0])
        if scores.ndim != 2:
            checks_bridges.boosting_scores(scores, self._softmax_name)  # says what is wrong
        floor = None if self.hessian == "exact" else self.floor
        grad, hess = _hessians.row_derivatives(self._sum, scores, label, floor)
        factor = -1.0 if weight is None else -weight
        grad *= factor
        hess *= factor
        return grad, hess

    # The metric -----------------------------------------------------------------------------------

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """Return the weighted sum of the losses, and the sum of the weights."""
        scores = checks_bridges.scores_by_class(approxes)
        scores, y, weights = self._batch(scores, target, weight)
        total = self._sum(scores, y, sample_weight=weights)
        counted: Array = np.ones(y.shape) if weights is None else weights.astype(np.float64)
        if self.is_softmax and y.ndim == 1:
            counted = counted * (y != self._sum.ignore_index)
            if isinstance(self.loss, SoftmaxCrossEntropy) and self.loss.class_weight is not None:
                counted = counted * self.loss.class_weight.take(y, mode="clip")
        with np.errstate(over="ignore"):
            return float(total), float(np.broadcast_to(counted, y.shape).sum())

    def get_final_error(self, error: float, weight: float) -> float:
        """Return the weighted mean; NaN if the weights sum to 0 or overflow."""
        return error / weight if weight and math.isfinite(weight) else math.nan

    def is_max_optimal(self) -> bool:
        """Return False, because lower is better."""
        return False
