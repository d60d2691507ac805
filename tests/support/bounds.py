"""How far a result may be from the truth.

Each bound is a number of roundings times the sum of the absolute values of the terms that the
result adds up. Where nothing cancels (labels without smoothing, hard targets) that is the result
itself, and the bound is relative.

- Every term is a product of a handful of factors, each within about an ULP: ROUNDINGS.
- u − max u is rounded unless the logits' differences are exact, and so is a scaled or capped u:
  its absolute error is at most 2·eps·max|u|, which is the relative error of the exponential.
- q^γ multiplies the relative error of q by γ, and adds that of the exponent γ·log q.
- A reduced loss is a sum of terms of one sign (z-loss aside) accumulated in float64.
- Below the smallest normal number an exponential may be 0.

16-bit results are the float32 result rounded once, to half an ULP of theirs.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from cases import TERMS, Batch, Case

from fastce.reference import _parts

ROUNDINGS = 4
ROUNDINGS_HESSIAN = 8
SLACK = 4  # for drawn options: the bounds are for the list of cases, and real errors far larger


def working(dtype):
    """The precision in which logits of this dtype, in any byte order, are computed."""
    return np.dtype(np.float64 if dtype.newbyteorder("=") == np.float64 else np.float32)


def spacing(x, dtype):
    """One ULP of `dtype` at each x (given in more precision)."""
    info = ml_dtypes.finfo(dtype)
    magnitude = np.maximum(np.abs(x), np.asarray(info.smallest_normal, x.dtype))
    _, exponent = np.frexp(magnitude)
    return np.ldexp(np.asarray(info.eps, x.dtype), exponent - 1)


def ulps(actual, truth, dtype):
    """The largest error in ULP of `dtype`, where the truth is a normal number of it."""
    actual, truth = np.asarray(actual).astype(truth.dtype), np.asarray(truth)
    same = (actual == truth) | (np.isnan(actual) & np.isnan(truth))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0, np.abs(actual - truth) / spacing(truth, dtype))
    normal = np.abs(truth) >= np.asarray(ml_dtypes.finfo(dtype).smallest_normal, truth.dtype)
    return float(np.max(error, where=normal | np.isnan(error), initial=0))


def ulps_allowed(limit, truth, dtype):
    """The limit, doubled if the truth has no more digits than the result, and errs as much."""
    return 2 * limit if np.finfo(truth.dtype).eps >= np.finfo(dtype).eps else limit


def assert_within(actual, truth, tolerance, result_dtype):
    """Each element within its tolerance, plus half an ULP if the result is rounded to 16 bits."""
    truth = np.asarray(truth)
    actual = np.asarray(actual).astype(truth.dtype)
    assert actual.shape == truth.shape
    if np.dtype(result_dtype).itemsize == 2:
        tolerance = tolerance + 0.5 * spacing(truth, result_dtype)
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(actual[~finite], truth[~finite])
    error = np.abs(actual[finite] - truth[finite])
    tolerance = np.broadcast_to(tolerance, truth.shape)[finite]
    over = ~(error <= tolerance)
    if over.any():
        worst = np.argmax(np.where(over, error / np.maximum(tolerance, 1e-300), 0))
        where = np.argwhere(finite)[worst]
        raise AssertionError(
            f"{over.sum()} of {over.size} elements beyond the bound; the worst, at {where}, is "
            f"{actual[finite][worst]!r} for {truth[finite][worst]!r}: "
            f"{error[worst] / tolerance[worst]:.3g} times the bound {tolerance[worst]:.3g}"
        )


def assert_equals_the_reference(actual, truth, tolerance, result_dtype, computed_in):
    """Within the tolerance; what is too large for the type is infinite, and too small for it 0."""
    truth, actual = np.asarray(truth), np.asarray(actual)
    largest = float(ml_dtypes.finfo(result_dtype).max)
    truth = np.where(np.abs(truth) > largest, np.copysign(np.inf, truth), truth)
    # A factor below the smallest normal number may be 0, and be multiplied by something large.
    floor = 4000 * float(np.finfo(computed_in).smallest_normal)
    tolerance = SLACK * np.asarray(tolerance) + floor
    # Where the bound itself has no value (0 times infinity), some digits have to be right.
    tolerance = np.where(np.isnan(tolerance), 1e-4 * np.abs(truth) + floor, tolerance)
    assert_within(actual, truth, tolerance, result_dtype)


def assert_equals_reference(c: Case, dtype: str):
    """Value, gradient and Hessian of a case, by each of the three methods."""
    batch = c.batch(dtype)
    truth = c.truth(batch)
    bound = tolerances(c, batch)
    loss = c.build()
    forward = {key: x for key, x in batch.call.items() if key != "grad_output"}

    value = loss(batch.logits, batch.target, **forward)
    value_1, grad_1 = loss.value_and_grad(batch.logits, batch.target, **batch.call)
    value_2, grad_2, hess = loss.value_grad_hess(batch.logits, batch.target, **batch.call)

    value_dtype = working(batch.logits.dtype)
    for v in (value, value_1, value_2):
        if c.reduction == "none":
            assert v.dtype == value_dtype
        else:
            assert type(v) is float
        assert_within(v, truth[0], bound[0], value_dtype)
    for x, i in ((grad_1, 1), (grad_2, 1), (hess, 2)):
        assert x.dtype == batch.logits.dtype
        assert_within(x, truth[i], bound[i], batch.logits.dtype)


@np.errstate(all="ignore")
def tolerances(case: Case, batch: Batch):
    """Absolute bounds on the error of value, gradient and Hessian."""
    loss, grad, hess, class_weight, used = TERMS[case.loss](batch, case.options, case.axis)

    info = np.finfo(working(batch.logits.dtype))
    eps = float(info.eps)
    if info.eps == np.finfo(np.longdouble).eps:
        eps *= 2  # the truth is no better than the result
    floor = float(info.smallest_normal) / eps
    weight, normalizer = batch.call.get("sample_weight"), batch.call.get("normalizer")
    if weight is not None and normalizer is None:  # terms of both signs: their sizes add up
        counts = np.where(used, np.broadcast_to(weight, used.shape) * class_weight, 0)
        normalizer = np.sum(counts) if np.sum(counts) > 0 else None
        weight = np.abs(weight)
    # Losses are added up in float64, one after another: half an ULP of the sum each time.
    added = 0.0 if case.reduction == "none" else np.size(used) * np.finfo(float).eps / (2 * eps)
    loss, grad, hess = _parts._reduce(
        (ROUNDINGS + added) * loss + floor,
        ROUNDINGS * grad + floor,
        ROUNDINGS_HESSIAN * hess + floor,
        used=used,
        sample_weight=weight,
        class_weight=class_weight,
        reduction=case.reduction,
        normalizer=normalizer,
        grad_output=np.abs(batch.call.get("grad_output", 1.0)),
    )
    if case.is_softmax:
        grad, hess = np.moveaxis(grad, -1, case.axis), np.moveaxis(hess, -1, case.axis)
    return eps * np.asarray(loss), eps * grad, eps * hess
