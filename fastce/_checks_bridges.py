"""Errors about arguments of the bridges to other packages, and of losses that are split up.

They go by the rules of `_checks`, which has those of the losses.
"""

import math
from typing import Any, NoReturn

import numpy as np

from fastce import _checks
from fastce._checks import Array

# Optional packages --------------------------------------------------------------------------------


def missing_host(name: str, extra: str, error: ImportError) -> NoReturn:
    """Say how to install the optional package ``name``, which the extra ``extra`` brings."""
    raise ImportError(
        f"{name} could not be imported ({error}): pip install 'fastce[{extra}]'"
    ) from error


# Shards -------------------------------------------------------------------------------------------


def softmax_loss(loss: Any) -> None:
    if not hasattr(loss, "class_weight_name"):
        raise TypeError(f"loss must be SoftmaxCrossEntropy or SoftmaxFocalLoss, got {loss!r}")


def number_of_classes(value: Any) -> int:
    count = _checks.integer("classes", value)
    if count < 0:
        raise ValueError(f"classes must be at least 0, got {value!r}")
    return count


def shard_of_classes(first_class: Any, width: int, classes: Any) -> int:
    """Return the first class of a shard that holds ``width`` of ``classes`` classes."""
    first = _checks.integer("first_class", first_class)
    if not 0 <= first <= number_of_classes(classes) - width:
        raise ValueError(
            f"a shard of {width} classes from first_class={first} is not part of {classes} classes"
        )
    return first


def summary_fits(shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
    if shape != target_shape:
        raise ValueError(
            f"a summary of shape {shape} does not fit a target of shape {target_shape}"
        )


def summary_is_soft(given: bool, wanted: bool) -> None:
    if given != wanted:
        raise ValueError(
            f"the summary was made with{'' if given else 'out'} label smoothing, the loss is"
            f" with{'' if wanted else 'out'}"
        )


def summaries_fit(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Check (numbers a row, ...) of two summaries that are to be merged."""
    if a != b:
        raise ValueError(f"summaries of {a} and of {b} (numbers a row, rows) cannot be merged")


# Objectives ---------------------------------------------------------------------------------------


def boosted_loss(value: Any, accepted: tuple[type, ...]) -> Any:
    if not isinstance(value, accepted):
        names = ", ".join(cls.__name__ for cls in accepted)
        raise TypeError(f"loss must be one of {names}, got {value!r}")
    return value


def hessian(value: str, has_bound: bool) -> str:
    if value not in ("positive", "exact", "upper"):
        raise ValueError(f"hessian must be 'positive', 'exact' or 'upper', got {value!r}")
    if value == "upper" and not has_bound:
        raise ValueError("hessian='upper' has no bound for a loss with z_loss or softcap")
    return value


def integral_labels(value: Any) -> Array:
    """Return class labels that came in any type that holds integers, as integers."""
    array = _checks._array("target", value)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind not in "fb":
        raise TypeError(f"target must be class labels, got {array.dtype}")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int64)
    good = labels == array
    if not good.all():
        at = _checks._first(~good)
        raise ValueError(
            f"target must be integral class labels, got {array[at]}{_checks._position(at)}"
        )
    return labels


def labels_in_range(labels: Array, classes: int) -> None:
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        _checks.bad_label(labels, int(np.argmax(bad)), classes)


# Bridges ------------------------------------------------------------------------------------------


def linear_layer(hidden: Any, weight: Any, bias: Any) -> tuple[Array, Array, Array | None]:
    """Return the arrays of a linear layer, all float32 or all float64."""
    x, w = _checks._array("hidden", hidden), _checks._array("weight", weight)
    b = None if bias is None else _checks._array("bias", bias)
    for name, array in (("hidden", x), ("weight", w), ("bias", b)):
        if array is not None and array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
        if array is not None and array.dtype != x.dtype:
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
    if _checks.class_axis(logits, axis) != logits.ndim - 1:
        raise ValueError(f"the class axis of loss must be the last, got axis={axis}")


def not_a_loss(value: Any, accepted: str) -> NoReturn:
    raise TypeError(f"loss must be {accepted}, got {value!r}")


def unknown_exported_loss(name: str, options: dict[str, Any], error: Exception) -> NoReturn:
    raise ValueError(
        f"the compiled code carries {name} with the options {', '.join(options)}, which this"
        f" version of fastce cannot make ({error}): compile it with this version"
    ) from error


def not_a_jax_array(name: str, value: Any, reason: object = "") -> NoReturn:
    raise TypeError(
        f"{name} must be an array, a list or a number, got {type(value).__name__}"
        + (f" ({reason})" if reason else "")
    )


def constant_in_jax(name: str) -> NoReturn:
    raise ValueError(
        f"{name} must not depend on what is differentiated, because fastce.jax has the derivative"
        f" in the logits alone: pass jax.lax.stop_gradient({name}) to take it as constant"
    )


def no_second_derivative_in_jax() -> NoReturn:
    raise NotImplementedError(
        "fastce.jax has first derivatives only, and a second one was asked for. The diagonal of the"
        " Hessian comes from the loss's method value_grad_hess, on NumPy arrays"
    )


def host_argument(name: str, accepted: str, got: Any) -> NoReturn:
    """Refuse an argument of a bridge that the host would accept."""
    raise ValueError(f"{name} must be {accepted}, got {got}")


def host_type(name: str, accepted: str, got: Any) -> NoReturn:
    """Refuse an argument of a bridge for its type."""
    raise TypeError(f"{name} must be {accepted}, got {got}")


def dask_logits(value: Any, array_type: type) -> None:
    if not isinstance(value, array_type):
        raise TypeError(f"logits must be a dask array, got {type(value).__name__}")
    if any(math.isnan(size) for size in value.shape):  # type: ignore[attr-defined]
        raise ValueError("logits must have known chunk sizes: call compute_chunk_sizes() first")


def dask_target(is_labels: bool, is_split: bool) -> None:
    if is_split and not is_labels:
        raise ValueError(
            "a target of probabilities needs chunks of whole rows:"
            " rechunk the logits' class axis to -1"
        )
