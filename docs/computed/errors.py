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
    z = (3 * rng.standard_normal((20_000, 10))).astype(np.float32)
    label, y = rng.integers(0, 10, 20_000), rng.integers(0, 2, z.shape).astype(np.float32)
    lines = ["| loss | value | gradient | Hessian |", "|---|--:|--:|--:|"]
    for loss, truth in LOSSES.items():
        target = label if loss.__name__.startswith("Softmax") else y
        found = loss(reduction="none").value_grad_hess(z, target)
        value, grad, hess = truth(z, target, reduction="none")
        scales = abs(value), abs(grad), np.maximum(abs(hess), abs(grad))
        worst = [
            np.max(abs(f - t) / scale) / np.finfo(np.float32).eps
            for f, t, scale in zip(found, (value, grad, hess), scales, strict=True)
        ]
        lines.append(f"| {loss.__name__} | {' | '.join(f'{error:.1f}' for error in worst)} |")
    return "\n".join(lines)
