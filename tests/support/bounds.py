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
from cases import Batch, Case

from fastce import reference
from fastce.reference import _elements, _parts

ROUNDINGS = 4
ROUNDINGS_HESSIAN = 8


def working(dtype):
    """The precision that logits of this dtype, in any order of bytes, are computed in."""
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
    terms = {
        "SoftmaxCrossEntropy": _cross_entropy_terms,
        "SoftmaxFocalLoss": _softmax_focal_terms,
        "SoftmaxKLDivergence": _divergence_terms,
        "BCEWithLogits": _bce_terms,
        "SigmoidFocalLoss": _sigmoid_focal_terms,
    }[case.loss]
    loss, grad, hess, class_weight, used = terms(batch, case.options, case.axis)

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
    loss, grad, hess = _parts._reduce(
        ROUNDINGS * loss + floor,
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


def _softmax_rows(batch, options, axis):
    logits = batch.logits.astype(np.float64)
    where, ignore_index = batch.call.get("where"), options.get("ignore_index", -100)
    return reference._rows(logits, batch.target, where, ignore_index, axis)


def _error_of_exponentials(u, kept, exact):
    """The relative error, in eps, of exp(u − max u) beyond its own rounding."""
    size = np.max(np.where(kept & np.isfinite(u), np.abs(u), 0), axis=-1, keepdims=True)
    exact = exact and np.all(u == np.round(u * 32) / 32)
    return np.where(exact, 0, 2 * size)


def _cross_entropy_terms(batch, options, axis):
    z, q, kept, used = _softmax_rows(batch, options, axis)
    w = np.ones(z.shape[-1]) if options.get("weight") is None else options["weight"]
    smoothing, z_loss = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    scale, softcap = options.get("logit_scale", 1.0), options.get("softcap")
    u, du, d2u = reference._scale_and_cap(z, scale, softcap)
    sm = _parts._softmax_of(np.where(kept, u, -np.inf))
    p, one_minus_p = sm.p, sm.one_minus_p
    inexact = _error_of_exponentials(u, kept, exact=scale == 1 and softcap is None)
    largest = np.max(np.where(kept & np.isfinite(u), np.abs(u), 0), axis=-1, keepdims=True)
    lse = largest + np.log(sm.total)

    t = w * ((1 - smoothing) * q + smoothing * kept / kept.sum(-1, keepdims=True))
    mass = t.sum(-1, keepdims=True)
    loss = _parts._times(t, sm.surprise).sum(-1) + (mass * inexact + z_loss * lse**2)[..., 0]
    nothing_cancels = q.dtype == bool and smoothing == 0
    grad = (mass - t) * p + t * one_minus_p if nothing_cancels else mass * p + t
    grad = (grad + 2 * z_loss * lse * p) * (1 + inexact)
    hess = (mass + 2 * z_loss * lse) * p * one_minus_p + 2 * z_loss * p**2
    hess = hess * (1 + inexact)

    if softcap is not None:
        du, d2u = du + scale / 4, np.abs(d2u) + scale**2 / softcap  # 1 − tanh² cancels
    class_weight = _parts._at_target(w, q)[..., 0] if q.dtype == bool else 1
    return loss, grad * du, hess * du**2 + grad * d2u, class_weight, used


def _softmax_focal_terms(batch, options, axis):
    z, hot, kept, used = _softmax_rows(batch, options, axis)
    gamma, alpha = options.get("gamma", 2.0), options.get("alpha")
    sm = _parts._softmax_of(np.where(kept, z, -np.inf))
    p, q, surprise, alpha = (
        _parts._at_target(x, hot)
        for x in (sm.p, sm.one_minus_p, sm.surprise, np.ones_like(z) if alpha is None else alpha)
    )
    inexact = _error_of_exponentials(z, kept, exact=True)
    growth = (1 + inexact) * (2 + gamma) + gamma * np.where(q > 0, -np.log(q), 0)
    modulation = alpha * q**gamma * growth

    ratio = np.where(q == 0, 1, p * surprise / q)
    a = modulation * (gamma * ratio + 1)
    grad = a * np.where(hot, q, sm.p)
    r = np.where(hot, 1, np.where(sm.p == 0, 0, sm.p / q))
    b = modulation * q * gamma * (p * surprise + 2 * p + abs(gamma - 1) * p * ratio)
    hess = b * r**2 + a * sm.p * sm.one_minus_p
    return (modulation * surprise)[..., 0], grad, hess, 1, used


def _divergence_terms(batch, options, axis):
    """Of δ = log p − log q, which sums up a difference of logits and the logarithm of a sum."""
    temperature = options.get("temperature", 1.0)
    wide = batch.logits.astype(np.longdouble)
    z, t, kept, used = reference._rows(wide, batch.target, batch.call.get("where"), -100, axis)
    z, t = np.where(kept, z, -np.inf), np.where(kept, t, -np.inf)
    student = _parts._softmax_of(z / temperature)
    teacher = _parts._softmax_of(t / temperature)
    p, q = teacher.p, student.p
    row = {"reduction": "none", "where": batch.call.get("where"), "axis": axis}
    target = np.asarray(batch.target, np.longdouble)
    loss, grad, _ = reference.softmax_kl_divergence(wide, target, temperature=temperature, **row)
    change = np.abs(np.moveaxis(grad, axis, -1)) / temperature

    exact = temperature == 1
    of_student = 1 + _error_of_exponentials(z / temperature, kept, exact)
    of_teacher = 1 + _error_of_exponentials(t / temperature, kept, exact)
    delta = np.where((p > 0) & (q > 0), np.abs(teacher.surprise - student.surprise), 0)
    between = np.abs(np.log(student.total) - np.log(teacher.total))
    of_delta = delta + between + change.sum(-1, keepdims=True)
    grad = change * (of_teacher + of_student) + np.minimum(q, np.maximum(p, change)) * of_delta
    loss = loss * np.max(of_teacher, axis=-1) + temperature**2 * np.sum(
        np.where(change > 0, change * of_delta, 0) + p * of_delta**2 * 1e-16, axis=-1
    )
    hess = q * student.one_minus_p * of_student
    return loss, temperature * grad, hess, 1, used


def _sigmoid_elements(batch, options):
    z = batch.logits.astype(np.float64)
    y, not_y = _elements._smoothed(batch.target, options.get("label_smoothing", 0.0))
    used = _elements._elements_used(z, batch.call.get("where"))
    return z, y, not_y, _parts._sigmoid(z), _parts._sigmoid(-z), used


def _bce_terms(batch, options, axis):
    z, y, not_y, p, not_p, used = _sigmoid_elements(batch, options)
    y = y * (1 if options.get("pos_weight") is None else options["pos_weight"])
    loss = y * _parts._softplus(-z) + not_y * _parts._softplus(z)
    return loss, not_y * p + y * not_p, (y + not_y) * p * not_p, 1, used


def _sigmoid_focal_terms(batch, options, axis):
    z, y, not_y, p, not_p, used = _sigmoid_elements(batch, options)
    gamma, alpha = options.get("gamma", 2.0), options.get("alpha", 0.25)
    alpha = None if alpha is None else np.asarray(alpha)
    c = y * _parts._softplus(-z) + not_y * _parts._softplus(z)
    q = y * not_p + not_y * p
    r = np.abs(not_y - y) / (_parts._times(y, 1 / p) + _parts._times(not_y, 1 / not_p))
    growth = 2 + gamma - gamma * np.log(q)
    modulation = (1 if alpha is None else alpha * y + (1 - alpha) * not_y) * q**gamma * growth
    grad = modulation * (q + gamma * r * c)
    hess = modulation * (p * not_p + 2 * gamma * q * r + gamma * r * c * (abs(gamma - 1) * r + 1))
    return modulation * c, grad, hess, 1, used
