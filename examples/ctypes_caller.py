"""Call fastce's C interface through ctypes, without a compiler.

The functions are capsules in ``fastce._core.__pyx_capi__``, each named by its C signature.
_core.pxd documents their arguments. ctypes releases the GIL during a call.

In a checkout: pip install .; python examples/ctypes_caller.py
"""

import ctypes
import re

import numpy as np

import fastce._core

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


def c_function(name):
    """Return a C function with the argument types of its signature; pointers are addresses."""
    capsule = fastce._core.__pyx_capi__[name]
    signature = capsule_name(capsule)
    print(f"{name}: {signature.decode()}")
    arguments = re.fullmatch(r"int \((.*)\)", signature.decode())[1].split(", ")
    types = [ctypes.c_void_p if "*" in text else C_TYPES[text] for text in arguments]
    return ctypes.CFUNCTYPE(ctypes.c_int, *types)(capsule_pointer(capsule, signature))


sigmoid_focal_loss = c_function("sigmoid_focal_loss_float32")

rng = np.random.default_rng(0)
logits = rng.normal(scale=4, size=(100, 20)).astype(np.float32)
target = (rng.random(logits.shape) < 0.05).astype(np.float32)
grad = np.empty_like(logits)
total = ctypes.c_double()
positives = target.sum(dtype=np.float64)  # what detectors divide the loss by
status = sigmoid_focal_loss(
    *(logits.ctypes.data, target.ctypes.data, logits.size),
    *(None, 2.0, 0.25, 0.0),  # sample_weight, gamma, alpha, label_smoothing
    *(1 / positives, grad.ctypes.data, None, ctypes.addressof(total)),  # scale, grad, loss, total
)
assert status == 0
print(f"loss per positive: {total.value / positives:.6f}")

expected, expected_grad = fastce.sigmoid_focal_loss(logits, target, normalizer=positives)
assert total.value / positives == expected
assert (grad == expected_grad).all()
print("the Python interface gives the same bits")

target[3, 7] = 1.5
grad[:] = 0
status = sigmoid_focal_loss(
    *(logits.ctypes.data, target.ctypes.data, logits.size),
    *(None, 2.0, 0.25, 0.0),
    *(1 / positives, grad.ctypes.data, None, ctypes.addressof(total)),
)
print(f"status of a target of 1.5: {status}; gradient written: {grad.any()}")
