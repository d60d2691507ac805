"""Pairs of students and teachers, and how exact the divergence between them has to be."""

from __future__ import annotations

import numpy as np
import pytest
from bounds import ulps

from fastce import reference


def both(noise, shape, dtype, rng, offset=0.0):
    """Return a student and its teacher, which differ by noise and an offset of all classes."""
    teacher = rng.normal(scale=3, size=shape).astype(dtype)
    student = teacher.astype(np.float64) + noise * rng.normal(size=shape) + offset
    return student.astype(dtype), teacher


def assert_eight_ulp(kl, student, teacher, *, offset=0.0, found=None):
    """Allow 8 ULP, and for the gradient also the rounding of a difference of logits, times p.

    `found` is the losses and the gradient, if they are not those of the call itself.
    """
    loss, grad = found or kl.value_and_grad(student, teacher)
    if np.finfo(np.longdouble).eps >= np.finfo(student.dtype).eps:
        pytest.skip("np.longdouble is no wider than float64")
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    true_loss, true_grad, _ = reference.softmax_kl_divergence(
        *wide, temperature=kl.temperature, reduction="none"
    )
    info = np.finfo(student.dtype)
    assert ulps(loss.astype(info.dtype), true_loss, info.dtype) <= 8
    p = reference.softmax(wide[1] / kl.temperature)
    typical = np.sqrt(np.sum(true_grad**2 / p, axis=1, keepdims=True))  # of log p - log q, by T
    # With an offset, the difference that the truth begins with is rounded, too.
    typical += offset * np.finfo(np.longdouble).eps / info.eps
    bound = 8 * info.eps * (np.abs(true_grad) + p * typical) + info.tiny
    assert np.all(np.abs(grad - true_grad) <= bound)
