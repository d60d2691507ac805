# cython: language_level=3, boundscheck=False, wraparound=False
"""Loops over one call of the C interface, for bench.c_interface."""

cimport fastce._core as fastce
from libc.stdint cimport int64_t


def softmax_cross_entropy(float[:, ::1] z, int64_t[::1] y, float[:, ::1] grad, Py_ssize_t calls):
    cdef double total = 0.0, scale = 1.0 / z.shape[0]
    cdef int status = 0
    with nogil:
        for _ in range(calls):
            status |= fastce.softmax_cross_entropy_float32(
                &z[0, 0], z.shape[0], z.shape[1], z.strides[0], z.strides[1], &y[0], True, -100,
                NULL, NULL, 0.0, 0.0, scale, &grad[0, 0], grad.strides[0], grad.strides[1], NULL, &total)
    assert status == fastce.FASTCE_OK
    return total


def bce_with_logits(float[:, ::1] z, float[:, ::1] y, float[:, ::1] grad, Py_ssize_t calls):
    cdef Py_ssize_t count = z.shape[0] * z.shape[1]
    cdef double total = 0.0, scale = 1.0 / count
    cdef int status = 0
    with nogil:
        for _ in range(calls):
            status |= fastce.bce_with_logits_float32(
                &z[0, 0], &y[0, 0], count, NULL, NULL, 0.0, scale, &grad[0, 0], NULL, &total)
    assert status == fastce.FASTCE_OK
    return total
