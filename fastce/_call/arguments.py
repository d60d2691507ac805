"""Arguments and results of a call: what is common to all losses."""

from typing import Any, NamedTuple

import numpy as np

from fastce._call.layout import Array

VALUE, GRADIENT, HESSIAN = 1, 2, 3  # number of results: the loss, + gradient, + Hessian


class Call(NamedTuple):
    """The arguments that every method of every loss takes after logits and target."""

    sample_weight: Any = None
    where: Any = None
    normalizer: Any = None
    grad_output: Any = None
    out: Any = None
    loss_out: Any = None


def working_type(logits: Array) -> Any:
    """Return the type that the kernels compute in."""
    return np.dtype(np.float64 if logits.dtype.itemsize == 8 else np.float32)


def native_float(array: Any) -> Any:
    """Return an array in a type that the kernels read: longer floats are rounded to float64."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.dtype.itemsize <= 8:
        return array
    with np.errstate(all="ignore"):
        return array.astype(np.float64)


def handed_back(out: Any, written: list[Array]) -> list[Array]:
    """Return the caller's own output arrays instead of the views that were written."""
    if out is None:
        return written
    given = out if isinstance(out, tuple) else (out,)
    return [array if own is None else own for own, array in zip(given, written, strict=True)]
