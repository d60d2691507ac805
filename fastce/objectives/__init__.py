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
from typing import Any

import numpy as np

from fastce._call import checks_bridges
from fastce._call.loss import Array
from fastce.losses import SoftmaxCrossEntropy
from fastce.objectives import _hessians, _host
from fastce.objectives._objective import Objective, SklearnMetric

__all__ = ["CatBoostObjective", "LightGBMObjective", "Objective", "XGBoostObjective"]


class XGBoostObjective(Objective):
    """An objective for XGBoost, and metrics to go with it.

    The instance is ``obj`` of ``xgboost.train``, and `metric` is its ``custom_metric``. For
    ``XGBClassifier``, `sklearn` is the ``objective`` and `sklearn_metric` the ``eval_metric``.
    Softmax losses need ``num_class``, unless the labels of the DMatrix are probabilities, (n, K).
    Ask for raw scores with ``output_margin=True``. Beside an objective of XGBoost's own, metrics
    get probabilities: `probability_metric` and `sklearn_probability_metric` take them, the others
    refuse them. XGBoost takes no negative weights, and its ``scale_pos_weight`` is refused.

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

    # XGBoost's classifier, to which an instance is no objective, asks for sample_weight by name.
    def __call__(self, predt: Array, dtrain: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """Return gradient and Hessian, (n,) or (n, K) as the raw scores ``predt`` are."""
        checks_bridges.host_data(dtrain, "the objective itself", "its method sklearn")
        _host.xgboost_weights()
        labels = _of_scores_shape(dtrain.get_label(), predt)
        return self.derivatives(predt, labels, dtrain.get_weight())

    def metric(self, predt: Array, dtrain: Any) -> tuple[str, float]:
        """Return the name and the mean of the loss, of raw scores."""
        checks_bridges.host_data(dtrain, "metric", "sklearn_metric")
        _host.xgboost_metric("probability_metric")
        labels = _of_scores_shape(dtrain.get_label(), predt)
        return self.name, self.value(predt, labels, dtrain.get_weight())

    def probability_metric(self, predt: Array, dtrain: Any) -> tuple[str, float]:
        """Return the name and the mean of the loss, beside an objective of XGBoost's own."""
        checks_bridges.host_data(dtrain, "probability_metric", "sklearn_probability_metric")
        _host.xgboost_metric("metric", takes_probabilities=True)
        labels = _of_scores_shape(dtrain.get_label(), predt)
        return self.name, self.value_of_probabilities(predt, labels, dtrain.get_weight())

    def sklearn(
        self, y_true: Array, y_pred: Array, sample_weight: Any = None
    ) -> tuple[Array, Array]:
        """Return gradient and Hessian, as the scikit-learn interface asks for them."""
        checks_bridges.sklearn_scores(y_pred, "sklearn", "the objective itself")
        _host.xgboost_weights()
        return self.derivatives(y_pred, _of_scores_shape(y_true, y_pred), sample_weight)

    @property
    def sklearn_metric(self) -> SklearnMetric:
        """The mean loss of raw scores, of ``(y_true, y_score, sample_weight=None)``."""
        return SklearnMetric(self.name, self._value_of_scores)

    @property
    def sklearn_probability_metric(self) -> SklearnMetric:
        """The mean loss, likewise, beside an objective of XGBoost's own."""
        return SklearnMetric(self.name, self._value_of_probabilities)

    def _value_of_scores(self, scores: Array, target: Array, sample_weight: Any) -> float:
        checks_bridges.sklearn_scores(scores, "sklearn_metric", "metric")
        _host.xgboost_metric("sklearn_probability_metric")
        return self.value(scores, _of_scores_shape(target, scores), sample_weight)

    def _value_of_probabilities(self, p: Array, target: Array, sample_weight: Any) -> float:
        checks_bridges.sklearn_scores(p, "sklearn_probability_metric", "probability_metric")
        _host.xgboost_metric("sklearn_metric", takes_probabilities=True)
        return self.value_of_probabilities(p, _of_scores_shape(target, p), sample_weight)


def _of_scores_shape(labels: Array, scores: Array) -> Array:
    """Return labels, of which XGBoost hands over (n, K) as (n·K,)."""
    scores = np.asarray(scores)
    is_flat = scores.ndim == 2 and scores.shape[1] > 1 and np.shape(labels) == (scores.size,)
    return np.reshape(labels, scores.shape) if is_flat else labels


class LightGBMObjective(Objective):
    """An objective for LightGBM, and metrics to go with it.

    The instance is ``params["objective"]`` of ``lightgbm.train``, and `metric` is its ``feval``.
    For ``LGBMClassifier``, `sklearn` is the ``objective`` and `sklearn_metric` the ``eval_metric``
    of its ``fit``. Softmax losses need ``num_class`` of ``train``. Predictions are raw scores, also
    of ``LGBMClassifier.predict``.

    Pass ``metric="None"``: else the classifier takes LightGBM's own metric as well, of raw scores
    as if they were probabilities, and early stopping obeys it. The metrics warn of that. Beside an
    objective of LightGBM's own, they get probabilities: `probability_metric` and
    `sklearn_probability_metric` take them, the others refuse them. Weights may be negative;
    ``is_unbalance`` and ``scale_pos_weight``, which LightGBM would drop, are refused.

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
        """Return gradient and Hessian, (n,) or (n, K) over class-major memory as ``preds`` are."""
        checks_bridges.host_data(train_data, "the objective itself", "its method sklearn")
        _host.lightgbm_weights()
        return self.derivatives(preds, train_data.get_label(), train_data.get_weight())

    def metric(self, preds: Array, eval_data: Any) -> tuple[str, float, bool]:
        """Return the name and the mean of the loss, of raw scores, and that less is better."""
        checks_bridges.host_data(eval_data, "metric", "sklearn_metric")
        _host.lightgbm_metric("probability_metric")
        value = self.value(preds, eval_data.get_label(), eval_data.get_weight())
        return self.name, value, False

    def probability_metric(self, preds: Array, eval_data: Any) -> tuple[str, float, bool]:
        """Return the same, beside an objective of LightGBM's own."""
        checks_bridges.host_data(eval_data, "probability_metric", "sklearn_probability_metric")
        _host.lightgbm_metric("metric", takes_probabilities=True)
        labels, weight = eval_data.get_label(), eval_data.get_weight()
        return self.name, self.value_of_probabilities(preds, labels, weight), False

    # LightGBM counts the parameters: three, without defaults.

    def sklearn(self, y_true: Array, y_pred: Array, weight: Any) -> tuple[Array, Array]:
        """Return gradient and Hessian, as the scikit-learn interface asks for them."""
        checks_bridges.sklearn_scores(y_pred, "sklearn", "the objective itself")
        _host.lightgbm_weights()
        return self.derivatives(y_pred, y_true, weight)

    def sklearn_metric(self, y_true: Array, y_pred: Array, weight: Any) -> tuple[str, float, bool]:
        """Return the name and the mean of the loss, of raw scores, and that less is better."""
        checks_bridges.sklearn_scores(y_pred, "sklearn_metric", "metric")
        _host.lightgbm_metric("sklearn_probability_metric")
        return self.name, self.value(y_pred, y_true, weight), False

    def sklearn_probability_metric(
        self, y_true: Array, y_pred: Array, weight: Any
    ) -> tuple[str, float, bool]:
        """Return the same, beside an objective of LightGBM's own."""
        checks_bridges.sklearn_scores(y_pred, "sklearn_probability_metric", "probability_metric")
        _host.lightgbm_metric("sklearn_metric", takes_probabilities=True)
        return self.name, self.value_of_probabilities(y_pred, y_true, weight), False

    def _factor(self, classes: int) -> float:
        return 2.0 if self.hessian == "upper" else classes / max(classes - 1, 1)


class CatBoostObjective(Objective):
    """An objective for CatBoost, which is its own metric.

    The instance is ``loss_function`` and ``eval_metric`` of ``CatBoostClassifier``; it may be
    ``eval_metric`` beside an objective of CatBoost's own, too. Pass ``class_names``, the labels in
    order: without, the model has no ``classes_``, its ``predict`` and ``score`` raise, and CatBoost
    drops ``class_weights`` and ``auto_class_weights`` of two classes, which is an error here.
    CatBoost's own choice of the leaves' values for custom objectives is one gradient step;
    ``leaf_estimation_method="Newton"`` makes it use the Hessian. Softmax losses are one Python call
    a row: slow. CatBoost takes no negative weights. Ask for raw scores with
    ``prediction_type="RawFormulaVal"``.

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
    ...     loss_function=focal, eval_metric=focal, class_names=[0, 1],
    ...     leaf_estimation_method="Newton", iterations=20, verbose=False,
    ...     allow_writing_files=False,
    ... )
    >>> x, y = np.arange(40.0).reshape(20, 2), np.arange(20) // 15
    >>> model = model.fit(x, y)
    >>> model.predict(x)[[0, 19]]
    array([0, 1])
    >>> bool(model.score(x, y) > 0.9)
    True
    """

    no_jit = True  # else CatBoost tries to compile the methods with Numba, and warns that it cannot

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> Array:
        """Return the two derivatives of minus the loss, (n, 2), for one score a sample."""
        _host.catboost_weights()
        derivatives = self.derivatives(approxes, targets, weights)
        return -np.stack(derivatives, axis=-1)

    def calc_ders_multi(self, approxes: Any, target: Any, weight: Any) -> tuple[Array, Array]:
        """Return gradient (K,) and Hessian (K, K) of minus the loss, for one sample."""
        scores = np.asarray(approxes, np.float64)[None]
        label = checks_bridges.label_of_a_row(target)
        weights = None if weight is None else [weight]
        if not self.is_softmax or self.hessian == "upper" or not self._is_plain:
            grad, hess = self.derivatives(scores, label, weights)
            return -grad[0], np.diag(-hess[0])
        if scores.ndim != 2:
            checks_bridges.boosting_scores(scores, self._softmax_name)  # says what is wrong
        grad, hess = _hessians.row_derivatives(
            self._sum, scores, label, is_clipped=self.hessian == "positive"
        )
        factor = -1.0 if weight is None else -weight
        grad *= factor
        hess *= factor
        return grad, hess

    # The metric -----------------------------------------------------------------------------------

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """Return the sum of the losses, times their weights, and the sum of the weights."""
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
        """Return the weighted mean: NaN of no weights, and of weights that overflow."""
        return error / weight if weight and math.isfinite(weight) else math.nan

    def is_max_optimal(self) -> bool:
        """Return that less is better."""
        return False
