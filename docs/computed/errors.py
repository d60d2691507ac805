import numpy as np

import fastce
from fastce import reference

LOSSES = {
    fastce.SoftmaxCrossEntropy: reference.softmax_cross_entropy,
    fastce.SoftmaxFocalLoss: reference.softmax_focal_loss,
    fastce.BCEWithLogits: reference.bce_with_logits,
    fastce.SigmoidFocalLoss: reference.sigmoid_focal_loss,
}


def table():
    rng = np.random.default_rng(0)
    z = (20 * rng.standard_normal((20_000, 10))).astype(np.float32)
    label, y = rng.integers(0, 10, 20_000), rng.integers(0, 2, z.shape).astype(np.float32)
    lines = ["| loss | value | gradient | Hessian |", "|---|--:|--:|--:|"]
    for loss, truth in LOSSES.items():
        target = label if loss.__name__.startswith("Softmax") else y
        found = loss(reduction="none").value_grad_hess(z, target)
        exact = truth(z, target, reduction="none")
        worst = [f"{units(f, t):.1f}" for f, t in zip(found, exact, strict=True)]
        lines.append(f"| {loss.__name__} | {' | '.join(worst)} |")
    return "\n".join(lines)


def units(found, truth):
    """Return the largest error, in the spacing of found's dtype at the truth."""
    magnitude = np.abs(truth).astype(found.dtype)
    normal = magnitude >= np.finfo(found.dtype).smallest_normal
    error = np.abs(found.astype(np.float64) - truth)
    return np.max(error[normal] / np.spacing(magnitude[normal]))
