"""The cases of sigmoid losses, and what bounds the error of each loss."""

from __future__ import annotations

import numpy as np
from batches import (
    booleans,
    confident,
    element_mask,
    element_weight,
    hard,
    integers,
    last_axis_mask,
    off_grid,
    per_element,
    right,
    signed_element_weight,
    soft,
    value,
    weight_per_row,
)
from losses import maker

from fastce.reference import _elements, _parts

ALPHA = np.array([0.25, 1.0, 0.0, 0.5, 0.75, 0.125, 0.9, 0.999, 0.001, 0.5])
POS_WEIGHT = np.array([0.5, 1.0, 2.0, 3.0, 0.75, 1.25, 5.0, 1.0, 0.0, 1.5])

bce = maker("BCEWithLogits", hard)
sigmoid_focal = maker("SigmoidFocalLoss", hard)

CASES = [
    bce("plain"),
    bce("sum", reduction="sum"),
    bce("none", reduction="none"),
    bce("confident", right, logits=confident, reduction="none"),
    bce("confident and wrong", logits=confident, reduction="none"),
    bce("off grid", logits=off_grid, reduction="none"),
    bce("integers", integers),
    bce("booleans", booleans),
    bce("soft", soft),
    bce("soft, none", soft, reduction="none"),
    bce("pos_weight", pos_weight=POS_WEIGHT),
    bce("scalar pos_weight, soft", soft, pos_weight=2.5, reduction="none"),
    bce("smoothing", label_smoothing=0.1),
    bce("soft, smoothing, pos_weight", soft, label_smoothing=0.1, pos_weight=POS_WEIGHT),
    bce("sample weight", call={"sample_weight": element_weight}),
    bce("signed sample weight", call={"sample_weight": signed_element_weight}),
    bce("weight of rows", call={"sample_weight": weight_per_row}),
    bce("where", call={"where": element_mask}),
    bce("where over the last axis", reduction="sum", call={"where": last_axis_mask}),
    bce("normalizer", call={"normalizer": value(12.5)}),
    bce("gradient of a sum", reduction="sum", call={"grad_output": value(0.3)}),
    bce(
        "everything",
        soft,
        pos_weight=POS_WEIGHT,
        label_smoothing=0.1,
        reduction="none",
        call={
            "sample_weight": element_weight,
            "where": element_mask,
            "grad_output": per_element,
        },
    ),
    bce("0-d", shape=()),
    bce("1-D", shape=(301,)),
    bce("4-D", shape=(2, 3, 5, 10), pos_weight=POS_WEIGHT),
    *[sigmoid_focal(f"γ={gamma}", gamma=gamma) for gamma in (0, 0.3, 0.5, 1, 2, 3.7)],
    *[sigmoid_focal(f"soft, γ={gamma}", soft, gamma=gamma) for gamma in (0, 0.3, 1, 2, 3.7)],
    *[
        sigmoid_focal(
            f"confident, γ={gamma}", right, logits=confident, gamma=gamma, reduction="none"
        )
        for gamma in (0, 0.3, 1, 2, 3.7)
    ],
    sigmoid_focal("confident and wrong", logits=confident, gamma=0.5, reduction="none"),
    sigmoid_focal("off grid", logits=off_grid, reduction="none"),
    sigmoid_focal("no alpha", alpha=None),
    sigmoid_focal("no alpha, soft", soft, alpha=None, reduction="sum"),
    sigmoid_focal("alpha 0", alpha=0.0),
    sigmoid_focal("alpha 1", alpha=1.0),
    sigmoid_focal("alpha of classes", alpha=ALPHA, reduction="none"),
    sigmoid_focal("alpha of classes, soft", soft, alpha=ALPHA, gamma=1.5),
    sigmoid_focal(
        "alpha of rows, signed weight",
        shape=(5, 10),
        alpha=ALPHA[None],
        label_smoothing=0.1,
        call={"sample_weight": signed_element_weight},
    ),
    sigmoid_focal("smoothing", label_smoothing=0.1),
    sigmoid_focal("booleans", booleans),
    sigmoid_focal("sample weight", call={"sample_weight": element_weight}),
    sigmoid_focal("where", gamma=0.5, call={"where": element_mask}),
    sigmoid_focal("normalizer", call={"normalizer": value(12.5)}),
    sigmoid_focal(
        "everything",
        soft,
        gamma=1.5,
        label_smoothing=0.1,
        reduction="none",
        call={
            "sample_weight": weight_per_row,
            "where": last_axis_mask,
            "grad_output": per_element,
        },
    ),
    sigmoid_focal("3-D", shape=(3, 7, 10)),
]


# What a loss adds up: see bounds.py


def _sigmoid_elements(batch, options):
    z = batch.logits.astype(np.float64)
    y, not_y = _elements._smoothed(batch.target, options.get("label_smoothing", 0.0))
    used = _parts._left_in(batch.call.get("where"), z.shape)
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
    gap = np.abs(not_y - y)
    r = gap / (_parts._times(y, 1 / p) + _parts._times(not_y, 1 / not_p))
    growth = 2 + gamma
    modulation = (1 if alpha is None else alpha * y + (1 - alpha) * not_y) * q**gamma * growth
    grad = modulation * (q + gamma * r * c)
    if options.get("label_smoothing"):  # y is rounded: one rounding of the eight, even if gap is 0
        r = r + (1 / 8) / (_parts._times(y, 1 / p) + _parts._times(not_y, 1 / not_p))
    hess = modulation * (p * not_p + 2 * gamma * q * r + gamma * r * c * (abs(gamma - 1) * r + 1))
    return modulation * c, grad, hess, 1, used


TERMS = {"BCEWithLogits": _bce_terms, "SigmoidFocalLoss": _sigmoid_focal_terms}
