"""Train softmax regression in a compiled Numba loop that calls fastce's C interface.

Numba can call any C function that ctypes describes. fastce's functions are in ``fastce._core``;
_core.pxd documents their arguments.

In a checkout: pip install . numba scikit-learn; python examples/numba_trainer.py
"""

from ctypes import CFUNCTYPE, c_double, c_int, c_int64, c_size_t, c_ssize_t
from time import perf_counter

import numpy as np
from numba import njit
from numba.extending import get_cython_function_address
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BATCH = 32
POINTER, SIZE = c_size_t, c_ssize_t  # addresses, 0 for NULL
softmax_cross_entropy = CFUNCTYPE(
    c_int,  # status: 0 means success
    *(POINTER, SIZE, SIZE, SIZE, SIZE),  # logits, rows, classes, row_stride, class_stride
    *(POINTER, c_int, c_int64),  # labels, ignores, ignore_index
    *(POINTER, POINTER, c_double, c_double),  # class_weight, sample_weight, label_smoothing, z_loss
    *(c_double, POINTER, SIZE, SIZE),  # grad_scale, grad, grad_row_stride, grad_class_stride
    *(POINTER, POINTER),  # loss, total
)(get_cython_function_address("fastce._core", "softmax_cross_entropy_float32"))


@njit(nogil=True)
def train(x, y, classes, epochs, rate):
    weights = np.zeros((x.shape[1], classes), np.float32)
    total = np.empty(1)
    rows = len(x) // BATCH * BATCH
    for _ in range(epochs):
        mean = 0.0
        for start in range(0, rows, BATCH):
            batch, labels = x[start : start + BATCH], y[start : start + BATCH]
            z = np.dot(batch, weights)
            # The gradient replaces the logits. An address does not keep an array alive; z, y and
            # total are still used after the call.
            status = softmax_cross_entropy(
                *(z.ctypes.data, BATCH, classes, z.strides[0], z.strides[1]),
                *(labels.ctypes.data, 0, 0),
                *(0, 0, 0.02, 0.0),
                *(1 / BATCH, z.ctypes.data, z.strides[0], z.strides[1]),
                *(0, total.ctypes.data),
            )
            if status != 0:
                raise RuntimeError("fastce: see the statuses in _core.pxd")
            mean += total[0] / rows
            weights -= rate * np.dot(batch.T, z)
    return weights, mean


images, digit = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (images / 16).astype(np.float32), digit.astype(np.int64), stratify=digit, random_state=0
)
train(x, y, 10, 0, np.float32(0.3))  # compiles it
start = perf_counter()
weights, loss = train(x, y, 10, 40, np.float32(0.3))
seconds = perf_counter() - start
accuracy = np.mean((x_test @ weights).argmax(axis=1) == y_test)
print(f"training loss {loss:.4f}, {accuracy:.2%} held-out accuracy")
print(f"{40 * (len(x) // BATCH)} steps in {seconds:.3f} s")
