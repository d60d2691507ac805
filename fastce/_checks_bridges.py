"""Errors about arguments of the bridges to other packages, and of losses that are split up.

They go by the rules of `_checks`, which has those of the losses.
"""

import math
from typing import Any, NoReturn

import numpy as np

from fastce import _checks, _positions
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
    if not 0 <= count < 2**48:  # the offsets of some thousand rows still fit in 64 bits
        raise ValueError(f"classes must be at least 0 and less than 2**48, got {value!r}")
    return count


def shard_of_classes(first_class: Any, width: int, classes: Any) -> int:
    """Return the first class of a shard that holds ``width`` of ``classes`` classes."""
    first = _checks.integer("first_class", first_class)
    if not 0 <= first <= number_of_classes(classes) - width:
        raise ValueError(
            f"a shard of {width} classes from first_class={first} is not part of {classes} classes"
        )
    return first


def summary(name: str, value: Any) -> list[Array]:
    """Return the fields of a summary: 3, 5 with label smoothing, 6 with a mask besides."""
    if not isinstance(value, tuple):
        raise TypeError(f"{name} must be a Summary, got {type(value).__name__}")
    fields = [_checks.real(f"{name} field", field) for field in value if field is not None]
    shapes = {field.shape for field in fields}
    if len(fields) not in (3, 5, 6) or len(shapes) != 1:
        raise ValueError(
            f"{name} must have 3, 5 or 6 fields of one shape, got"
            f" {', '.join(str(field.shape) for field in fields)}"
        )
    return fields


def summary_fits(name: str, fields: list[Array], shape: tuple[int, ...], soft: bool) -> None:
    """Check that a summary is of the rows of a target, and of a loss that smooths labels or not."""
    if fields[0].shape != shape:
        raise ValueError(
            f"{name} of shape {fields[0].shape} does not fit a target of shape {shape}"
        )
    given = len(fields) > 3
    if given != soft:
        raise ValueError(
            f"{name} was made with{'' if given else 'out'} label smoothing, the loss is"
            f" with{'' if soft else 'out'}"
        )


def summaries_fit(a: list[Array], b: list[Array]) -> None:
    """Check the fields of two summaries that are to be merged."""
    if len(a) != len(b) or a[0].shape != b[0].shape:
        raise ValueError(
            f"summaries of {len(a)} numbers for rows of shape {a[0].shape}, and of {len(b)} for"
            f" {b[0].shape}, cannot be merged"
        )


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
            f"target must be integral class labels, got {array[at]}{_positions.position(at)}"
        )
    return labels


def labels_in_range(labels: Array, classes: int) -> None:
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        _checks.bad_label(labels, int(np.argmax(bad)), classes)


# Bridges ------------------------------------------------------------------------------------------


def linear_layer(hidden: Any, weight: Any, bias: Any) -> tuple[Array, Array, Array | None]:
    """Return the arrays of a linear layer, all of one floating-point type."""
    x, w = _checks._array("hidden", hidden), _checks._array("weight", weight)
    b = None if bias is None else _checks._array("bias", bias)
    for name, array in (("hidden", x), ("weight", w), ("bias", b)):
        if array is None:
            continue
        if not _checks.is_float(array) or array.dtype.itemsize > 8 or not array.dtype.isnative:
            accepted = f"{_checks.ACCEPTED_LOGITS}, in native byte order"
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


def one_of_losses(value: Any, accepted: tuple[type, ...]) -> None:
    if not isinstance(value, accepted):
        not_a_loss(value, "one of " + ", ".join(cls.__name__ for cls in accepted))


def host_argument(name: str, accepted: str, got: Any) -> NoReturn:
    """Refuse an argument of a bridge that the host would accept."""
    raise ValueError(f"{name} must be {accepted}, got {got}")


def dask_logits(value: Any, array_type: type) -> None:
    if not isinstance(value, array_type):
        raise TypeError(f"logits must be a dask array, got {type(value).__name__}")
    dask_array("logits", value)


def dask_array(name: str, value: Any) -> None:
    """Check that a dask array has chunks of known sizes, which are NumPy's plain arrays."""
    if any(math.isnan(size) for size in value.shape):
        raise ValueError(f"{name} must have known chunk sizes: call compute_chunk_sizes() first")
    if isinstance(value._meta, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is of masked arrays, which are not supported: pass their data and a weight"
        )
    if not isinstance(value._meta, np.ndarray | np.generic):
        raise TypeError(
            f"{name} must be a dask array of NumPy arrays, got {type(value._meta).__name__} in it"
        )


def dask_scalar(name: str, shape: tuple[int, ...]) -> None:
    if shape != ():
        raise ValueError(f"{name} must be a number, or a dask array of no axes, got {shape}")


def broadcasts(name: str, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    _checks._broadcast(name, np.broadcast_to(np.False_, shape), to)


def dask_target(is_labels: bool, is_split: bool) -> None:
    if is_split and not is_labels:
        raise ValueError(
            "target: probabilities, or a one-hot, need chunks of whole rows:"
            " rechunk the logits' class axis to -1"
        )
