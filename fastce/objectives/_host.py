"""Settings that a boosting host does not pass to its objectives and metrics.

A host passes raw scores to a custom metric if the objective is custom, and its predictions if the
objective is built in. Most class weights are applied only by built-in objectives. In both cases the
results would be wrong without an error. The variables of the host's functions on the call stack
show which case it is. If these functions are not found, because the call comes from elsewhere,
nothing is checked.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from fastce._call import checks_bridges

CUSTOM = ("none", "None", "null", "custom", "na")  # LightGBM's names for a custom objective

# Metrics of LightGBM that are only meaningful for probabilities.
OF_PROBABILITIES = {
    *("binary", "binary_logloss", "binary_error", "cross_entropy", "xentropy", "kldiv"),
    *("cross_entropy_lambda", "xentlambda", "kullback_leibler", "multiclass", "softmax"),
    *("multi_logloss", "multiclassova", "multiclass_ova", "ova", "ovr"),
}


def locals_of_host(package: str, name: str) -> Iterator[Any]:
    """Yield the variables ``name`` of the package's functions on the stack, the nearest first."""
    frame = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == package and name in frame.f_code.co_varnames:
            yield frame.f_locals.get(name)
        frame = frame.f_back  # type: ignore[assignment]


def parameters_of_host(package: str) -> dict[str, Any]:
    """Return the parameters of the current training, or none outside of training."""
    given = (p for p in locals_of_host(package, "params") if isinstance(p, dict | list | tuple))
    return dict(next(given, ()))  # XGBoost also accepts pairs


def booster_of_host(package: str) -> Any:
    """Return the Booster that made the call, or None."""
    for owner in locals_of_host(package, "self"):
        if any(base.__name__ == "Booster" for base in type(owner).__mro__):
            return owner
    return None


def parameters_of_booster() -> dict[str, Any]:
    """Return the parameters of the LightGBM booster that made the call."""
    booster = booster_of_host("lightgbm")
    return {} if booster is None else booster.params


def xgboost_weights() -> None:
    """Reject class weights that XGBoost applies only in its own objectives."""
    if float(parameters_of_host("xgboost").get("scale_pos_weight") or 1) != 1:
        checks_bridges.dropped_weights(
            "XGBoost", "scale_pos_weight", "give pos_weight, alpha or weight to the loss"
        )


def xgboost_columns() -> int:
    """Return the number of scores per sample; labels (n, K) count as K targets."""
    booster = booster_of_host("xgboost")
    if booster is None:
        return 1
    model = json.loads(booster.save_config())["learner"]["learner_model_param"]
    return max(int(model["num_class"]), int(model["num_target"]))


def xgboost_classifier(loss: str) -> None:
    """Reject a softmax loss if XGBClassifier will treat its scores as those of a sigmoid.

    With two classes, the classifier keeps this objective for predictions, whatever num_class is.
    """
    if parameters_of_host("xgboost").get("objective") == "binary:logistic":
        checks_bridges.softmax_of_two(loss)


def xgboost_metric(instead: str, takes_probabilities: bool = False) -> None:
    """Reject predictions of the wrong kind."""
    is_raw = next(locals_of_host("xgboost", "output_margin"), None)
    if is_raw is None:
        return
    is_raw = is_raw or parameters_of_host("xgboost").get("objective") == "binary:logitraw"
    if bool(is_raw) == takes_probabilities:
        checks_bridges.other_predictions(instead, takes_probabilities)


def lightgbm_weights() -> None:
    """Reject class weights that LightGBM applies only in its own objectives."""
    given = parameters_of_booster()
    names = ("is_unbalance", "unbalance", "unbalanced_sets")
    is_unbalanced = any(str(given.get(name)).lower() in ("true", "1", "+") for name in names)
    if is_unbalanced or float(given.get("scale_pos_weight") or 1) != 1:
        checks_bridges.dropped_weights(
            "LightGBM",
            "is_unbalance and scale_pos_weight",
            "give pos_weight, alpha or weight to the loss, or weights to the Dataset",
        )


def lightgbm_metric(instead: str, takes_probabilities: bool = False) -> None:
    """Reject predictions of the wrong kind; warn of metrics that misread raw scores."""
    given = parameters_of_booster()
    aliases = ("objective", "objective_type", "app", "application", "loss")
    is_raw = next((given[name] for name in aliases if name in given), "none") in CUSTOM
    if given and is_raw == takes_probabilities:
        checks_bridges.other_predictions(instead, takes_probabilities)
    if not is_raw:
        return
    names = ("metric", "metrics", "metric_types")
    metrics: Any = next((given[name] for name in names if given.get(name)), [])
    named = metrics.split(",") if isinstance(metrics, str) else metrics
    if wrong := sorted(OF_PROBABILITIES.intersection(map(str, named))):
        warnings.warn(
            f"LightGBM also evaluates {', '.join(wrong)}, which treats raw scores as"
            " probabilities, and uses it for early stopping: pass metric='None'",
            stacklevel=3,
        )


def catboost_weights() -> None:
    """Reject class weights that CatBoost ignores, if there is one score per sample."""
    given = parameters_of_host("catboost")
    is_weighted = given.get("class_weights") is not None
    is_weighted |= given.get("auto_class_weights") not in (None, "None")
    if is_weighted and given.get("class_names") is None and not given.get("classes_count"):
        checks_bridges.dropped_weights(
            "CatBoost",
            "class_weights and auto_class_weights",
            "unless it knows the classes: also pass class_names (classes_count=2 for catboost.cv)",
        )


def catboost_classes(scores: int) -> None:
    """Reject scores of fewer classes than CatBoost knows; it leaves out those without samples.

    CatBoost may call for every row, so this only looks at the nearest ``params`` on the stack.
    """
    frame = sys._getframe(1).f_back
    while frame is not None and "params" not in frame.f_code.co_varnames:
        frame = frame.f_back
    if frame is None or not str(frame.f_globals.get("__name__")).startswith("catboost."):
        return  # a thread of CatBoost, whose main thread also calls the objective
    given: dict[str, Any] = frame.f_locals.get("params") or {}
    names = given.get("class_names")
    classes = given.get("classes_count") or 0 if names is None else len(names)
    if classes > 2 and classes != scores:
        checks_bridges.absent_classes(scores, classes)
