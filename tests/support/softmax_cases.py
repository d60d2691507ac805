"""The cases of softmax losses, and what bounds the error of each loss."""

from __future__ import annotations

import numpy as np
from batches import (
    all_ignored,
    class_mask,
    confident,
    confident_teacher,
    equal,
    excluding,
    far_apart,
    far_apart_teacher,
    labels,
    likeliest,
    near,
    not_normalised,
    off_grid,
    one_hot_booleans,
    one_hot_integers,
    one_hot_labels,
    per_row,
    probabilities,
    row_weight,
    signed_row_weight,
    some_classes,
    some_excluded,
    some_ignored,
    sparse_probabilities,
    teacher,
    value,
)
from losses import maker

from fastce import reference
from fastce.reference import _parts

CLASS_WEIGHT = np.array([0.25, 1.0, 2.0, 0.5, 0.75, 3.0, 1.5, 1.0, 0.0, 1.25])
CLASS_ALPHA = np.array([0.25, 1.0, 0.75, 0.5, 0.3, 1.0, 0.9, 1.5, 0.0, 0.6])

cross_entropy = maker("SoftmaxCrossEntropy", labels)
softmax_focal = maker("SoftmaxFocalLoss", labels)
divergence = maker("SoftmaxKLDivergence", teacher)

CASES = [
    cross_entropy("plain"),
    cross_entropy("sum", reduction="sum"),
    cross_entropy("none", reduction="none"),
    cross_entropy("off grid", logits=off_grid, reduction="none"),
    cross_entropy("confident", likeliest, logits=confident, reduction="none"),
    cross_entropy("confident and wrong", logits=confident, reduction="none"),
    cross_entropy("far apart", logits=far_apart, reduction="none"),
    cross_entropy("all equal", logits=equal, reduction="none"),
    cross_entropy("one class", shape=(9, 1)),
    cross_entropy("two classes", shape=(65, 2), reduction="none"),
    cross_entropy("many classes", shape=(3, 1009), reduction="none"),
    cross_entropy("many classes, logit scale", shape=(3, 1009), logit_scale=0.3),
    cross_entropy("ignored", some_ignored(-100)),
    cross_entropy("ignored class", some_ignored(3), ignore_index=3),
    cross_entropy("all ignored", all_ignored),
    cross_entropy("weight", weight=CLASS_WEIGHT),
    cross_entropy("smoothing", label_smoothing=0.1),
    cross_entropy("smoothing only", label_smoothing=1.0),
    cross_entropy(
        "weight, smoothing, ignored",
        some_ignored(-100),
        weight=CLASS_WEIGHT,
        label_smoothing=0.2,
    ),
    cross_entropy("z-loss", z_loss=1e-2),
    cross_entropy("logit scale", logit_scale=0.3),
    cross_entropy("softcap", softcap=5.0),
    cross_entropy(
        "everything",
        some_ignored(-100),
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        z_loss=1e-2,
        logit_scale=0.7,
        softcap=20.0,
        call={"sample_weight": row_weight, "where": class_mask, "grad_output": value(-1.5)},
    ),
    cross_entropy("sample weight", call={"sample_weight": row_weight}),
    cross_entropy("sample weight, weight", weight=CLASS_WEIGHT, call={"sample_weight": row_weight}),
    cross_entropy("sample weight, none", reduction="none", call={"sample_weight": row_weight}),
    cross_entropy("signed sample weight", call={"sample_weight": signed_row_weight}),
    cross_entropy(
        "signed sample weight, weight, none",
        some_ignored(-100),
        weight=CLASS_WEIGHT,
        reduction="none",
        call={"sample_weight": signed_row_weight},
    ),
    cross_entropy("where", call={"where": class_mask}),
    cross_entropy("where, smoothing", label_smoothing=0.1, call={"where": class_mask}),
    cross_entropy(
        "where, weight, smoothing, sum",
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        reduction="sum",
        call={"where": class_mask},
    ),
    cross_entropy("normalizer", call={"normalizer": value(7.5)}),
    cross_entropy("gradient of a mean", call={"grad_output": value(-1.5)}),
    cross_entropy("gradient of rows", reduction="none", call={"grad_output": per_row}),
    cross_entropy("1-D", shape=(10,)),
    cross_entropy("1-D, none", shape=(10,), reduction="none"),
    cross_entropy("axis 0", shape=(10, 33), axis=0),
    cross_entropy("3-D", shape=(4, 5, 10), weight=CLASS_WEIGHT),
    cross_entropy("4-D, axis 1", shape=(3, 10, 5, 7), axis=1),
    cross_entropy(
        "4-D, axis 1, all",
        some_ignored(-100),
        shape=(3, 10, 5, 7),
        axis=1,
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        reduction="none",
        call={"sample_weight": row_weight, "where": class_mask, "grad_output": per_row},
    ),
    cross_entropy("5-D, axis 1", some_ignored(-100), shape=(2, 10, 3, 2, 4), axis=1),
    cross_entropy("probabilities", probabilities),
    cross_entropy("probabilities, none", probabilities, reduction="none"),
    cross_entropy("probabilities, sparse", sparse_probabilities, reduction="sum"),
    cross_entropy("probabilities, one-hot", one_hot_labels, reduction="none"),
    cross_entropy("probabilities, not normalised", not_normalised),
    cross_entropy("probabilities, integers", one_hot_integers, reduction="none"),
    cross_entropy("probabilities, booleans", one_hot_booleans, label_smoothing=0.1),
    cross_entropy(
        "probabilities, signed weight, axis 1",
        one_hot_integers,
        shape=(3, 10, 5, 7),
        axis=1,
        call={"sample_weight": signed_row_weight},
    ),
    cross_entropy("probabilities, confident", probabilities, logits=confident),
    cross_entropy("probabilities, many classes", probabilities, shape=(3, 1009)),
    cross_entropy("probabilities, 1-D", probabilities, shape=(10,)),
    cross_entropy(
        "probabilities, weight, smoothing",
        probabilities,
        weight=CLASS_WEIGHT,
        label_smoothing=0.2,
    ),
    cross_entropy(
        "probabilities, where",
        sparse_probabilities,
        label_smoothing=0.1,
        call={"where": class_mask, "sample_weight": row_weight},
    ),
    cross_entropy(
        "probabilities, everything",
        sparse_probabilities,
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        z_loss=1e-2,
        logit_scale=0.7,
        softcap=20.0,
        reduction="none",
        call={"sample_weight": row_weight, "where": class_mask, "grad_output": per_row},
    ),
    cross_entropy("probabilities, axis 1", probabilities, shape=(3, 10, 5, 7), axis=1),
    *[softmax_focal(f"γ={gamma}", gamma=gamma) for gamma in (0, 0.3, 0.5, 1, 2, 3.7)],
    *[
        softmax_focal(
            f"confident, γ={gamma}", likeliest, logits=confident, gamma=gamma, reduction="none"
        )
        for gamma in (0, 0.3, 0.5, 1, 2, 3.7)
    ],
    softmax_focal("confident and wrong", logits=confident, gamma=0.5, reduction="none"),
    softmax_focal("far apart", logits=far_apart, gamma=1.5, reduction="none"),
    softmax_focal("off grid", logits=off_grid, reduction="none"),
    softmax_focal("one class", shape=(9, 1), gamma=0.5),
    softmax_focal("two classes", shape=(65, 2), reduction="sum"),
    softmax_focal("many classes", shape=(3, 1009), reduction="none"),
    softmax_focal("alpha", alpha=CLASS_ALPHA),
    softmax_focal("ignored, alpha", some_ignored(-100), alpha=CLASS_ALPHA),
    softmax_focal("ignored class", some_ignored(0), ignore_index=0, gamma=0.7),
    softmax_focal("sample weight", alpha=CLASS_ALPHA, call={"sample_weight": row_weight}),
    softmax_focal("signed sample weight", call={"sample_weight": signed_row_weight}),
    softmax_focal("where", call={"where": class_mask}, gamma=1.5),
    softmax_focal("normalizer", reduction="mean", call={"normalizer": value(3.0)}),
    softmax_focal("gradient of rows", reduction="none", call={"grad_output": per_row}),
    softmax_focal("1-D", shape=(10,)),
    softmax_focal(
        "4-D, axis 1",
        some_ignored(-100),
        shape=(3, 10, 5, 7),
        axis=1,
        alpha=CLASS_ALPHA,
        call={"sample_weight": row_weight},
    ),
    divergence("plain"),
    divergence("sum", reduction="sum"),
    divergence("none", reduction="none"),
    *[
        divergence(f"noise {noise}", near(noise), logits=off_grid, reduction="none")
        for noise in (0.1, 1e-3, 1e-6)
    ],
    divergence("noise and offset", near(1e-3, 100.0), reduction="none"),
    divergence("itself", near(0.0), reduction="none"),
    divergence("temperature", temperature=2.0, reduction="none"),
    divergence("low temperature, sum", temperature=0.3, reduction="sum"),
    divergence("temperature, many classes", near(0.1), shape=(3, 1009), temperature=4.0),
    divergence("confident", confident_teacher, logits=confident, reduction="none"),
    divergence("far apart", far_apart_teacher, logits=far_apart, reduction="none"),
    divergence("flat", logits=equal, reduction="none"),
    divergence("one class", near(0.5), shape=(9, 1)),
    divergence("two classes", near(0.5), shape=(65, 2), reduction="none"),
    divergence("many classes", near(0.5), shape=(3, 1009), reduction="none"),
    divergence("excluded by both", shape=(33, 13), target=excluding, logits=some_excluded),
    divergence("sample weight", call={"sample_weight": row_weight}),
    divergence("signed sample weight", call={"sample_weight": signed_row_weight}),
    divergence("where", call={"where": some_classes}),
    divergence("normalizer", call={"normalizer": value(7.5)}),
    divergence("gradient of a mean", call={"grad_output": value(-1.5)}),
    divergence("gradient of rows", reduction="none", call={"grad_output": per_row}),
    divergence("1-D", shape=(10,)),
    divergence("axis 0", shape=(10, 33), axis=0),
    divergence("4-D, axis 1", shape=(3, 10, 5, 7), axis=1),
    divergence(
        "everything",
        near(0.3),
        temperature=2.0,
        reduction="none",
        call={"sample_weight": row_weight, "where": some_classes, "grad_output": per_row},
    ),
]


# What a loss adds up: see bounds.py


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
    """Those of δ = log p − log q, the sum of a difference of logits and the logarithm of a sum."""
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
    # Logits that are a constant apart have equal distributions, but differences that are rounded.
    apart = np.where(np.isfinite(z) & np.isfinite(t), np.abs(z - t), 0).max(-1, keepdims=True)
    apart = apart / temperature
    # A gradient has the rounding of its difference of logits: as large as any of the row.
    of_largest = of_delta - delta + np.max(delta, axis=-1, keepdims=True)
    # The truth begins with a difference that is rounded, too: not 0 for a class with all of p. And
    # the rounding error of a difference, which the kernel adds, is itself rounded.
    working = np.float64 if batch.logits.dtype.itemsize == 8 else np.float32
    eps = np.finfo(working).eps
    of_truth = apart * (np.finfo(wide.dtype).eps / eps + eps)
    grad = change * (of_teacher + of_student) + np.minimum(q, np.maximum(p, change)) * of_largest
    grad = grad + p * of_truth
    of_classes = np.where(change > 0, change * (of_delta + of_truth), 0)
    of_classes = of_classes + p * (of_delta + apart) ** 2 * 2e-16
    loss = loss * np.max(of_teacher, axis=-1) + temperature**2 * of_classes.sum(-1)
    hess = q * student.one_minus_p * of_student
    return loss, temperature * grad, hess, 1, used


TERMS = {
    "SoftmaxCrossEntropy": _cross_entropy_terms,
    "SoftmaxFocalLoss": _softmax_focal_terms,
    "SoftmaxKLDivergence": _divergence_terms,
}
