# cython: language_level=3, boundscheck=False, wraparound=False
"""Stochastic gradient descent for softmax regression, without Python or the GIL in the loop."""

import numpy as np

cimport fastce._core as fastce
from libc.stdint cimport int64_t

cdef enum:
    BATCH = 32


def train(const float[:, ::1] x, const int64_t[::1] y, Py_ssize_t classes, int epochs, float rate):
    """Return the weights (features, classes) and the mean training loss of the last epoch."""
    weights = np.zeros((x.shape[1], classes), np.float32)
    cdef float[:, ::1] w = weights
    cdef float[:, ::1] z = np.empty((BATCH, classes), np.float32)
    cdef Py_ssize_t rows = x.shape[0] // BATCH * BATCH
    cdef double total = 0.0
    cdef int status = fastce.FASTCE_OK
    if y.shape[0] != x.shape[0] or rows == 0 or classes == 0:
        raise ValueError(f"x has {x.shape[0]} rows and y {y.shape[0]} for batches of {BATCH}")
    with nogil:
        for _ in range(epochs):
            status = run_epoch(x, y, rows, rate, w, z, &total)
            if status != fastce.FASTCE_OK:
                break
    if status == fastce.FASTCE_BAD_LABEL:
        raise IndexError(f"a label lies outside [0, {classes})")
    if status != fastce.FASTCE_OK:
        raise MemoryError
    return weights, total / rows


cdef int run_epoch(const float[:, ::1] x, const int64_t[::1] y, Py_ssize_t rows, float rate,
                   float[:, ::1] w, float[:, ::1] z, double* total) noexcept nogil:
    cdef Py_ssize_t batch, start, row, feature, label, classes = w.shape[1]
    cdef double loss
    cdef float step
    cdef int status
    total[0] = 0.0
    for batch in range(rows // BATCH):
        start = batch * BATCH
        z[:] = 0
        for row in range(BATCH):
            for feature in range(x.shape[1]):
                for label in range(classes):
                    z[row, label] += x[start + row, feature] * w[feature, label]

        # The gradient of the mean replaces the logits.
        status = fastce.softmax_cross_entropy_float32(
            &z[0, 0], BATCH, classes, z.strides[0], z.strides[1],
            &y[start], False, 0,                   # labels; ignores, ignore_index
            NULL, NULL, 0.02, 0.0,                 # class and sample weights; label_smoothing, z_loss
            1.0 / BATCH, &z[0, 0], z.strides[0], z.strides[1],  # grad_scale, grad and its strides
            NULL, &loss)                           # loss of each row, total
        if status != fastce.FASTCE_OK:
            return status
        total[0] += loss

        for row in range(BATCH):
            for feature in range(x.shape[1]):
                step = rate * x[start + row, feature]
                for label in range(classes):
                    w[feature, label] -= step * z[row, label]
    return fastce.FASTCE_OK
