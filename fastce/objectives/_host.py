"""What a boosting host does around a call of an objective or a metric, and does not hand over.

The hosts give a custom metric raw scores beside a custom objective, and their own predictions
beside an objective of their own; and most weights of classes are applied by their own objectives
alone. Both would be wrong numbers without an error. The functions of the host that lie below a call
on the stack know which it is. Where they are not found, because the call comes from elsewhere,
nothing is refused.
"""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

from fastce._call import checks_bridges

CUSTOM = ("none", "None", "null", "custom", "na")  # LightGBM's names of a custom objective

# Metrics of LightGBM that mean something of probabilities only.
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
    """Return the parameters of the training that is under way; none where there is none."""
    return next((p for p in locals_of_host(package, "params") if isinstance(p, dict)), {})


def parameters_of_booster() -> dict[str, Any]:
    """Return the parameters of LightGBM's booster that has called."""
    owners = locals_of_host("lightgbm", "self")
    return next((owner.params for owner in owners if type(owner).__name__ == "Booster"), {})


def xgboost_weights() -> None:
    """Refuse weights of classes that XGBoost leaves to its own objectives."""
    if float(parameters_of_host("xgboost").get("scale_pos_weight") or 1) != 1:
        checks_bridges.dropped_weights(
            "XGBoost", "scale_pos_weight", "give pos_weight, alpha or weight to the loss"
        )


def xgboost_metric(instead: str, takes_probabilities: bool = False) -> None:
    """Refuse predictions that are not of the kind that a metric takes."""
    is_raw = next(locals_of_host("xgboost", "output_margin"), None)
    if is_raw is not None and bool(is_raw) == takes_probabilities:
        checks_bridges.other_predictions(instead, takes_probabilities)


def lightgbm_weights() -> None:
    """Refuse weights of classes that LightGBM leaves to its own objectives."""
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
    """Refuse predictions of the other kind; warn of metrics that take raw scores for others."""
    given = parameters_of_booster()
    is_raw = given.get("objective", "none") in CUSTOM
    if given and is_raw == takes_probabilities:
        checks_bridges.other_predictions(instead, takes_probabilities)
    if not is_raw:
        return
    names = ("metric", "metrics", "metric_types")
    metrics: Any = next((given[name] for name in names if given.get(name)), [])
    named = metrics.split(",") if isinstance(metrics, str) else metrics
    if wrong := sorted(OF_PROBABILITIES.intersection(map(str, named))):
        warnings.warn(
            f"LightGBM also evaluates {', '.join(wrong)} of raw scores, as if they were"
            " probabilities, and early stopping obeys it: pass metric='None'",
            stacklevel=3,
        )


def catboost_weights() -> None:
    """Refuse weights of classes that CatBoost drops, with one score a sample."""
    given = parameters_of_host("catboost")
    is_weighted = given.get("class_weights") is not None
    is_weighted |= given.get("auto_class_weights") not in (None, "None")
    if is_weighted and given.get("class_names") is None and not given.get("classes_count"):
        checks_bridges.dropped_weights(
            "CatBoost",
            "class_weights and auto_class_weights",
            "unless it knows the classes: pass class_names too (classes_count=2 to catboost.cv)",
        )
