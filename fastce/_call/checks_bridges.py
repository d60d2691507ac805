"""Checks for the bridges to other packages and for sharded losses.

They follow the rules of `checks`, which has the checks of the losses.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from fastce._call import checks, positions
from fastce._call.layout import Array
from fastce._call.messages import shown

# Optional packages --------------------------------------------------------------------------------


def missing_host(name: str, extra: str, error: ImportError) -> NoReturn:
    """Raise an error that says how to install ``name``, which is part of the extra ``extra``."""
    raise ImportError(
        f"{name} could not be imported ({error}): pip install 'fastce[{extra}]'"
    ) from error


@lru_cache
def bfloat16(extra: str) -> np.dtype[Any]:
    """Return NumPy's dtype for bfloat16, from ml_dtypes, which the extra installs."""
    try:
        import ml_dtypes
    except ImportError as error:
        missing_host("ml_dtypes", extra, error)
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def drawn_on(axes: Any, count: int) -> list[Any]:
    """Return the axes to draw on."""
    if not isinstance(axes, Iterable):
        host_type("axes", f"{count} axes", type(axes).__name__)
    found = list(axes)
    if len(found) != count:
        raise ValueError(f"axes must be {count} axes, got {len(found)}")
    return found


# Shards -------------------------------------------------------------------------------------------


def number_of_classes(value: Any) -> int:
    count = checks.integer("classes", value)
    if not 0 <= count < 2**48:  # the offsets of some thousand rows still fit in 64 bits
        raise ValueError(f"classes must be at least 0 and less than 2**48, got {shown(value)}")
    return count


def shard_of_classes(first_class: Any, width: int, classes: Any) -> int:
    """Return the first class of a shard that holds ``width`` of ``classes`` classes."""
    first = checks.integer("first_class", first_class)
    if not 0 <= first <= number_of_classes(classes) - width:
        raise ValueError(
            f"a shard of {width} classes that begins with first_class={first} exceeds"
            f" classes={classes}"
        )
    return first


def summary(name: str, value: Any, loss: Any = None) -> list[Array]:
    """Return the fields of a summary; if ``loss`` is given, their number must fit it."""
    # With labels: 3, 5 with label smoothing, 6 with smoothing and a mask. Of a divergence: 7.
    counts: tuple[int, ...] = (3, 5, 6, 7)
    if loss is not None:
        counts = (7,) if loss.takes_logits else (3, 5, 6)
    if not isinstance(value, tuple):
        raise TypeError(f"{name} must be a Summary, got {type(value).__name__}")
    fields = [checks.real(f"{name} field", field) for field in value if field is not None]
    shapes = {field.shape for field in fields}
    if len(fields) not in counts or len(shapes) != 1:
        *most, last = map(str, counts)
        accepted = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(
            f"{name} must have {accepted} fields of one shape, got"
            f" {', '.join(str(field.shape) for field in fields)}"
        )
    return fields


def summary_fits(name: str, fields: list[Array], shape: tuple[int, ...], loss: Any) -> None:
    """Check that a summary fits the rows of a target and the label smoothing of a loss."""
    if fields[0].shape != shape:
        raise ValueError(
            f"{name} of shape {fields[0].shape} does not fit a target of shape {shape}"
        )
    given, soft = len(fields) in (5, 6), getattr(loss, "label_smoothing", 0.0) != 0.0
    if given != soft:
        raise ValueError(
            f"{name} was made with{'' if given else 'out'} label smoothing, which the loss"
            f" {'uses' if soft else 'does not use'}"
        )


def mask_fits(name: str, fields: list[Array], has_mask: bool) -> None:
    """Check that a summary with label smoothing counts the classes of a mask if there is one."""
    if len(fields) in (5, 6) and (len(fields) == 6) != has_mask:
        made, accepted = ("out", "None") if has_mask else ("", "that of summarise")
        raise ValueError(f"where must be {accepted}: {name} was made with{made} a mask")


def summaries_fit(a: list[Array], b: list[Array]) -> None:
    """Check the fields of two summaries that are to be merged."""
    if len(a) != len(b) or a[0].shape != b[0].shape:
        raise ValueError(
            f"summaries of {len(a)} numbers for rows of shape {a[0].shape}, and of {len(b)} for"
            f" {b[0].shape}, cannot be merged"
        )


# Objectives ---------------------------------------------------------------------------------------


def hessian(value: str, has_bound: bool) -> str:
    if not isinstance(value, str) or value not in ("positive", "exact", "upper"):
        raise ValueError(f"hessian must be 'positive', 'exact' or 'upper', got {shown(value)}")
    if value == "upper" and not has_bound:
        raise ValueError(
            "hessian must be 'positive' or 'exact' for a loss with z_loss or softcap, for which no"
            " upper bound is known, got 'upper'"
        )
    return str(value)  # a NumPy string would show in the objective's repr


def boosting_scores(value: Any, softmax: str | None) -> Array:
    """Return raw scores: (n, K) if ``softmax`` names a softmax loss, otherwise (n,) or (n, K)."""
    scores = checks.logits(value)
    if scores.ndim == 2 or (scores.ndim == 1 and softmax is None):
        return scores
    if softmax is None:
        raise ValueError(f"scores must have shape (n,) or (n, K), got {scores.shape}")
    raise ValueError(
        f"{softmax} needs scores of shape (n, K), got {scores.shape}: set num_class of LightGBM or"
        " xgboost.train, even for two classes (CatBoost: class_names or classes_count, for three or"
        " more), or use BCEWithLogits or SigmoidFocalLoss, which need one score for two classes"
    )


def predicted_probabilities(value: Any, softmax: str | None) -> Array:
    """Return a host's predictions, in float64."""
    p = checks.real("probabilities", value)
    if p.ndim != 2 and (p.ndim != 1 or softmax is not None):
        accepted = "(n, K) (multi:softprob of XGBoost, not multi:softmax)"
        raise ValueError(
            f"probabilities must have shape {accepted if softmax else '(n,) or (n, K)'}, got"
            f" {p.shape}"
        )
    checks.unit_interval("probabilities", p)
    return p.astype(np.float64)


def boosting_target(value: Any, scores: Array) -> Array:
    """Return labels (n,), or a target of the scores' shape."""
    target = checks.real("target", value)
    if target.shape not in (scores.shape[:1], scores.shape):
        accepted = " or ".join(map(str, dict.fromkeys((scores.shape[:1], scores.shape))))
        raise ValueError(
            f"target of shape {target.shape} does not fit scores of shape {scores.shape}: it must"
            f" have shape {accepted}"
        )
    return target


def given_weight(value: Any) -> Array | None:
    """Return weights as an array, or None; XGBoost passes an empty array if there are none."""
    weight = None if value is None else checks.real("sample_weight", value)
    return None if weight is None or weight.size == 0 else weight


def boosting_weight(value: Any, scores: Array) -> Array | None:
    """Return weights (n,), or of the scores' shape."""
    weight = given_weight(value)
    if weight is not None and weight.shape not in ((), scores.shape[:1], scores.shape):
        raise ValueError(
            f"sample_weight must have shape {scores.shape[:1]}, got {weight.shape}, for scores of"
            f" shape {scores.shape}"
        )
    return weight  # the loss checks the values


def start_target(
    value: Any, classes: int | None, is_softmax: bool, takes_probabilities: bool
) -> Array:
    """Return the target of a constant score: labels (n,), or numbers in [0, 1]."""
    target = checks.real("target", value)
    if target.ndim == 1 and classes == 1 and not is_softmax:
        target = target[:, None]  # one score per sample, as in `derivatives`
    if target.ndim == 1 and (is_softmax or classes is not None):
        return integral_labels(target)
    if target.ndim not in (1, 2) or not takes_probabilities:
        accepted = "(n,) or (n, K)" if takes_probabilities else "(n,)"
        raise ValueError(f"target must have shape {accepted}, got {target.shape}")
    if classes is not None and target.shape[1] != classes:
        raise ValueError(f"target of shape {target.shape} does not fit classes={classes}")
    checks.unit_interval("target", target)
    return target


def weights_of_a_start(weight: Array | None) -> float:
    """Return the sum of the weights; 0 if there are none."""
    total = 0.0 if weight is None else float(weight.sum())
    if weight is not None and total <= 0 and weight.any():
        raise ValueError(
            "sample_weight must have a positive sum for an initial score, got"
            f" {total} after scaling the weights to at most 1"
        )
    return total


def weights_of_a_metric(weight: Any) -> NoReturn:
    raise ValueError(
        "sample_weight must have a positive sum over the samples that count, because a metric"
        f" divides by it, got weights from {weight.min()} to {weight.max()}: give the evaluated"
        " data set other weights, or none"
    )


def host_data(data: Any, method: str, instead: str) -> None:
    """Check that an objective got the host's data set, which the native interface passes."""
    if not hasattr(data, "get_label"):
        raise TypeError(
            f"{method} is for the host's native interface, but got {type(data).__name__} as the"
            f" data set: with the scikit-learn interface, use {instead}"
        )


def sklearn_scores(scores: Any, method: str, instead: str) -> None:
    """Check that an objective got scores, which the scikit-learn interface passes."""
    if hasattr(scores, "get_label"):
        raise TypeError(
            f"{method} is for the scikit-learn interface, but got {type(scores).__name__} as the"
            f" scores: with the native interface, use {instead}"
        )


def other_predictions(instead: str, takes_probabilities: bool) -> NoReturn:
    if takes_probabilities:
        raise ValueError(
            "the metric takes probabilities, but with a custom objective (or XGBoost's"
            f" binary:logitraw) the host passes raw scores: use {instead}"
        )
    raise ValueError(
        "the metric takes raw scores, but with a built-in objective the host passes its"
        f" predictions: use {instead}, which takes probabilities"
    )


def softmax_of_two(loss: str) -> NoReturn:
    raise ValueError(
        "loss must be BCEWithLogits or SigmoidFocalLoss for XGBClassifier with two classes or one"
        f" column of labels per class, got {loss}: the classifier would apply a sigmoid to each of"
        " its scores. xgboost.train (with num_class=2) and XGBRegressor (with columns) take any"
        " loss"
    )


def dropped_weights(host: str, options: str, instead: str) -> NoReturn:
    raise ValueError(f"{host} does not apply {options} to a custom objective: {instead}")


def absent_classes(scores: int, classes: int) -> NoReturn:
    raise ValueError(
        "class_names (or classes_count) must have only classes with samples, but CatBoost passes"
        f" scores for {scores} of {classes} classes: leave out classes without a sample in the"
        " training data, or stratify, so that each class has one"
    )


def scores_by_class(approxes: Any) -> Array:
    """Return CatBoost's list of score arrays as one array: (n,) for one, (n, K) for K of them."""
    if len(approxes) == 1:
        return np.asarray(approxes[0])
    try:
        return np.stack(approxes).T
    except ValueError as error:
        raise ValueError(f"approxes must be arrays of equal length: {error}") from None


def integral_labels(value: Any) -> Array:
    """Return integer-valued class labels of any dtype as integers."""
    array = checks.as_array("target", value)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind not in "fb":
        raise TypeError(f"target must be class labels, got {array.dtype}")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int64)
    good = labels == array
    if not good.all():
        at = checks.first_true(~good)
        raise ValueError(
            f"target must hold integer class labels, got {array[at]}{positions.position(at)}"
        )
    return labels


def label_of_a_row(value: Any) -> Array:
    """Return one label as an array (1,); `integral_labels` raises the errors."""
    if isinstance(value, float | int) and abs(value) < 2**53 and value == value // 1:
        return np.array([int(value)])
    label = checks.as_array("target", value)
    if label.ndim:
        raise ValueError(f"target must be one class label, got shape {label.shape}")
    return integral_labels(label[None])


# Bridges ------------------------------------------------------------------------------------------


def linear_layer(hidden: Any, weight: Any, bias: Any) -> tuple[Array, Array, Array | None]:
    """Return the arrays of a linear layer, all of one floating-point type."""
    x, w = checks.as_array("hidden", hidden), checks.as_array("weight", weight)
    b = None if bias is None else checks.as_array("bias", bias)
    for name, array in (("hidden", x), ("weight", w), ("bias", b)):
        if array is None:
            continue
        if not checks.is_logits(array) or not array.dtype.isnative:
            accepted = f"{checks.ACCEPTED_LOGITS}, in native byte order"
            raise TypeError(f"{name} must be {accepted}, got {array.dtype.str}")
        if array.dtype != x.dtype:
            raise TypeError(f"{name} must be of the dtype of hidden, {x.dtype}, got {array.dtype}")
    if x.ndim == 0:
        raise ValueError("hidden must have an axis of features, got a scalar")
    if w.ndim != 2 or w.shape[1] != x.shape[-1]:
        raise ValueError(
            f"weight must have shape (classes, {x.shape[-1]}) for hidden of shape {x.shape}, got"
            f" {w.shape}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias must have shape {w.shape[:1]}, got {b.shape}")
    return x, w, b


def last_class_axis(logits: Array, axis: int) -> None:
    if checks.class_axis(logits, axis) != logits.ndim - 1:
        raise ValueError(f"the class axis of loss must be the last, got axis={axis}")


def not_a_loss(value: Any, accepted: str) -> NoReturn:
    raise TypeError(f"loss must be {accepted}, got {shown(value)}")


def unknown_exported_loss(name: str, options: dict[str, Any], error: Exception) -> NoReturn:
    raise ValueError(
        f"the compiled code contains {name} with the options {', '.join(options)}, which this"
        f" version of fastce does not support ({error}): compile it again with this version"
    ) from error


def not_a_jax_array(name: str, value: Any, reason: object = "") -> NoReturn:
    of_dtype = f" of {value.dtype}" if hasattr(value, "dtype") else ""
    raise TypeError(
        f"{name} must be an array, a list or a number, got {type(value).__name__}{of_dtype}"
        + (f" ({reason})" if reason else "")
    )


def constant_in_jax(name: str) -> NoReturn:
    raise ValueError(
        f"{name} must not depend on the variable of differentiation, because fastce.jax only has"
        f" derivatives with respect to the logits: pass jax.lax.stop_gradient({name}) to treat it"
        " as constant"
    )


def no_second_derivative_in_jax() -> NoReturn:
    raise NotImplementedError(
        "fastce.jax has first derivatives only. To treat the gradient as constant, apply"
        " jax.lax.stop_gradient to the logits, not to the gradient. For the diagonal of the"
        " Hessian, call value_grad_hess of the loss with NumPy arrays"
    )


def one_of_losses(value: Any, accepted: tuple[type, ...]) -> None:
    if not isinstance(value, accepted):
        not_a_loss(value, "one of " + ", ".join(cls.__name__ for cls in accepted))


def host_argument(name: str, accepted: str, got: Any) -> NoReturn:
    """Reject an argument of a bridge that the host would accept."""
    raise ValueError(f"{name} must be {accepted}, got {got}")


def host_type(name: str, accepted: str, got: Any) -> NoReturn:
    """Reject an argument of a bridge because of its type."""
    raise TypeError(f"{name} must be {accepted}, got {got}")


def dask_logits(value: Any, array_type: type) -> None:
    if not isinstance(value, array_type):
        raise TypeError(f"logits must be a dask array, got {type(value).__name__}")
    dask_array("logits", value)


def dask_array(name: str, value: Any) -> None:
    """Check that the chunks of a dask array have known sizes and are plain NumPy arrays."""
    if any(math.isnan(size) for size in value.shape):
        raise ValueError(f"{name} must have known chunk sizes: call compute_chunk_sizes() first")
    if isinstance(value._meta, np.ma.MaskedArray):
        raise TypeError(
            f"{name} consists of masked arrays, which are not supported: pass their data and a"
            " weight"
        )
    if not isinstance(value._meta, np.ndarray | np.generic):
        raise TypeError(
            f"{name} must be a dask array of NumPy arrays, got one of {type(value._meta).__name__}"
        )


def dask_scalar(name: str, shape: tuple[int, ...]) -> None:
    if shape != ():
        raise ValueError(f"{name} must be a number, or a dask array without axes, got {shape}")


def dask_target(is_probabilities: bool, is_split: bool) -> None:
    if is_split and is_probabilities:
        raise ValueError(
            "target must be class labels if chunks split the class axis of the logits, got"
            " probabilities or a one-hot array: rechunk that axis to -1"
        )
