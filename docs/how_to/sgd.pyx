# cython: language_level=3, boundscheck=False, wraparound=False
"""Stochastic gradient descent for softmax regression, its loop in Cython."""

import numpy as np


def train(
    loss, float[:, ::1] x, long long[::1] y, Py_ssize_t classes, int epochs, float rate
):
    cdef Py_ssize_t row, feature, label, start, size = 32
    cdef float step
    cdef Py_ssize_t features = x.shape[1]
    weights = np.zeros((features, classes), np.float32)
    logits = np.empty((size, classes), np.float32)
    labels = np.empty(size, np.int64)
    cdef float[:, ::1] w = weights, z = logits
    cdef long long[::1] batch = labels

    for _ in range(epochs):
        for start in range(0, x.shape[0] - size + 1, size):
            batch[:] = y[start : start + size]
            with nogil:
                z[:] = 0
                for row in range(size):
                    for feature in range(features):
                        for label in range(classes):
                            z[row, label] += x[start + row, feature] * w[feature, label]

            # One call a batch: the gradient takes the logits' place.
            loss.value_and_grad(logits, labels, out=logits)

            with nogil:
                for row in range(size):
                    for feature in range(features):
                        step = rate * x[start + row, feature]
                        for label in range(classes):
                            w[feature, label] -= step * z[row, label]
    return weights
