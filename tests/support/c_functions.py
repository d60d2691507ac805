"""The functions of the C interface, called through ctypes with NumPy arrays."""

import ctypes
import re
import sys

import numpy as np
import pytest
from cases import FUNCTIONS

OK, BAD_LABEL, NO_MEMORY, BAD_TARGET, BAD_ARGUMENT = range(5)
C_TYPES = {
    "double": ctypes.c_double,
    "int": ctypes.c_int,
    "int64_t": ctypes.c_int64,
    "Py_ssize_t": ctypes.c_ssize_t,
}

capsule_name = ctypes.pythonapi.PyCapsule_GetName
capsule_name.restype, capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype = ctypes.c_void_p
capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def signatures(module):
    return {name: capsule_name(c).decode() for name, c in module.__pyx_capi__.items()}


def function(name):
    """Return a C function of the variant in use; ctypes releases the GIL while it runs."""
    capsule = sys.modules["fastce._core"].__pyx_capi__[name]
    result, arguments = re.fullmatch(r"(\w+) \((.*)\)", capsule_name(capsule).decode()).groups()
    types = [
        ctypes.c_void_p if "*" in argument else C_TYPES[argument]
        for argument in arguments.split(", ")
    ]
    address = capsule_pointer(capsule, capsule_name(capsule))
    return ctypes.CFUNCTYPE(C_TYPES[result], *types)(address)


def at(array):
    return None if array is None else array.ctypes.data


def contiguous(array, dtype, shape=None):
    if array is None:
        return None
    array = np.asarray(array, dtype)
    return np.ascontiguousarray(array if shape is None else np.broadcast_to(array, shape))


def call_softmax(name, z, y, options, *, weight=None, scale=1.0, grad=None, loss=None):
    """Call a softmax loss on (rows, classes); return (status, total)."""
    class_weight = contiguous(options.get("weight", options.get("alpha")), np.float64)
    own = [options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)]
    if "focal" in name:
        own = [options.get("gamma", 2.0)]
    total = ctypes.c_double(-1.0)
    status = function(f"{name}_{z.dtype}")(
        *(at(z), *z.shape, *z.strides, at(y)),
        *(options.get("ignore_index", -100) is not None, options.get("ignore_index", -100) or 0),
        *(at(class_weight), at(weight), *own, scale),
        *(at(grad), *(grad.strides if grad is not None else (0, 0))),
        *(at(loss), ctypes.addressof(total)),
    )
    return status, total.value


def call_divergence(z, t, temperature=1.0, *, weight=None, scale=1.0, grad=None, loss=None):
    """Call softmax_kl_divergence on two (rows, classes); return (status, total)."""
    total = ctypes.c_double(-1.0)
    status = function(f"softmax_kl_divergence_{z.dtype}")(
        *(at(z), *z.shape, *z.strides, at(t), *t.strides, at(weight), temperature, scale),
        *(at(grad), *(grad.strides if grad is not None else (0, 0))),
        *(at(loss), ctypes.addressof(total)),
    )
    return status, total.value


def call_sigmoid(name, z, y, options, *, weight=None, scale=1.0, grad=None, loss=None):
    """Call a sigmoid loss on contiguous elements; return (status, total)."""
    total = ctypes.c_double(-1.0)
    smoothing = options.get("label_smoothing", 0.0)
    if "focal" in name:
        alpha = options.get("alpha", 0.25)
        own = [at(weight), options.get("gamma", 2.0), -1.0 if alpha is None else alpha]
    else:
        pos_weight = contiguous(options.get("pos_weight"), z.dtype, z.shape)
        own = [at(pos_weight), at(weight)]
    status = function(f"{name}_{z.dtype}")(
        *(at(z), at(y), z.size, *own, smoothing, scale),
        *(at(grad), at(loss), ctypes.addressof(total)),
    )
    return status, total.value


def weight_sum(y, classes, options, *, weight=None, dtype="float64"):
    class_weight = contiguous(options.get("weight"), np.float64)
    total = ctypes.c_double(-1.0)
    status = function(f"sum_label_weights_{dtype}")(
        *(at(y), y.size, classes, 1, options.get("ignore_index", -100)),
        *(at(class_weight), at(weight), ctypes.addressof(total)),
    )
    return status, total.value


def evaluate(c, batch, *, wants_loss):
    """The value (reduced unless `wants_loss`) and the gradient of a case, through C."""
    z = batch.logits
    dtype, name = z.dtype, FUNCTIONS[c.loss]
    rows_shape = batch.target.shape if c.is_softmax else z.shape
    weight = contiguous(batch.call.get("sample_weight"), dtype, rows_shape)
    grad = np.full(z.shape, np.nan, dtype)
    loss = np.full(rows_shape, np.nan, dtype) if wants_loss else None
    denominator, total = 1.0, 0.0
    if c.is_softmax:
        y = contiguous(batch.target, np.int64)
        if c.reduction == "mean":
            status, denominator = weight_sum(
                y, z.shape[c.axis], c.options, weight=weight, dtype=dtype
            )
            assert status == OK
    else:
        y = contiguous(batch.target, dtype)
        if c.reduction == "mean":
            denominator = z.size if weight is None else weight.sum(dtype=np.float64)
    scale = batch.call.get("grad_output", 1.0) / denominator if denominator else 0.0
    if not c.is_softmax:
        status, total = call_sigmoid(
            name, z, y, c.options, weight=weight, scale=scale, grad=grad, loss=loss
        )
        assert status == OK
    else:
        # Planes are one call for each image: (N, C, H, W) as N times (H*W, C).
        for part in parts(z.shape, c.axis):
            status, part_total = call_softmax(
                name,
                rows_by_classes(z, c.axis, part),
                y.reshape(-1)[part],
                c.options,
                weight=None if weight is None else weight.reshape(-1)[part],
                scale=scale,
                grad=rows_by_classes(grad, c.axis, part),
                loss=None if loss is None else loss.reshape(-1)[part],
            )
            assert status == OK
            total += part_total
    if wants_loss:
        assert total == pytest.approx(loss.sum(dtype=np.float64), rel=1e-12, nan_ok=True)
        return loss, grad
    return total / denominator if denominator else np.nan, grad


def parts(shape, axis):
    """The ranges of rows that are one matrix each."""
    axis %= len(shape)
    outer = int(np.prod(shape[:axis])) if axis < len(shape) - 1 else 1
    rows = int(np.prod(shape)) // shape[axis] // outer
    return [slice(i * rows, (i + 1) * rows) for i in range(outer)]


def rows_by_classes(array, axis, part):
    """View a range of rows as a (rows, classes) matrix."""
    axis %= array.ndim
    if axis == array.ndim - 1:
        return array.reshape(-1, array.shape[-1])
    rows = part.stop - part.start
    planes = array.reshape(-1, array.shape[axis], rows)
    return planes[part.start // rows].T
