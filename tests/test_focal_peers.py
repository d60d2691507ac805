"""The focal losses and the reference against formulas in torch, which derives them twice itself.

The losses that torch has are compared with it in tests/bridges/test_torch.py.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

CLASSES = 6
WEIGHT = np.array([0.5, 1.0, 2.0, 0.25, 1.5, 3.0])


def focal_as_torchvision_defines_it(z, y, alpha, gamma, reduction):
    """p_t, then (1 − p_t)^γ times the cross-entropy, then α_t where α is not negative."""
    p = torch.sigmoid(z)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    p_t = p * y + (1 - p) * (1 - y)
    loss = cross_entropy * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return loss if reduction == "none" else getattr(loss, reduction)()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("alpha", [-1, 0.25, 0.9])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 3.7])
@pytest.mark.parametrize("target", ["hard", "soft"])
def test_sigmoid_focal_of_torchvision(target, gamma, alpha, reduction, evaluate, rng):
    z = 3 * rng.normal(size=(9, 7))
    y = rng.random(z.shape) if target == "soft" else rng.integers(2, size=z.shape).astype(float)
    tensor = torch.tensor(z, requires_grad=True)
    theirs = focal_as_torchvision_defines_it(tensor, torch.tensor(y), alpha, gamma, reduction)
    (first,) = torch.autograd.grad(theirs.sum(), tensor, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), tensor)  # elements do not act on each other
    options = {"gamma": gamma, "alpha": None if alpha < 0 else alpha, "reduction": reduction}
    loss, grad, hess = evaluate("SigmoidFocalLoss", z, y, options)
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(grad, first.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(hess, second.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0, 1, 2, 3.7])
def test_softmax_focal_written_in_torch(gamma, weighted, reduction, evaluate, rng):
    z = 2 * rng.normal(size=(9, CLASSES))
    y = rng.integers(CLASSES, size=9)
    tensor = torch.tensor(z, requires_grad=True)

    def focal(x):
        log_p = torch.log_softmax(x, dim=-1)[torch.arange(9), torch.tensor(y)]
        alpha = torch.tensor(WEIGHT[y]) if weighted else 1
        loss = -alpha * (1 - log_p.exp()) ** gamma * log_p
        return loss if reduction == "none" else getattr(loss, reduction)()

    theirs = focal(tensor)
    (first,) = torch.autograd.grad(theirs.sum(), tensor, create_graph=True)
    second = np.zeros_like(z)
    for j in range(CLASSES):
        (row,) = torch.autograd.grad(first[:, j].sum(), tensor, retain_graph=True)
        second[:, j] = row[:, j].numpy()
    options = {"gamma": gamma, "alpha": WEIGHT if weighted else None, "reduction": reduction}
    loss, grad, hess = evaluate("SoftmaxFocalLoss", z, y, options)
    np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(grad, first.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(hess, second, rtol=1e-9, atol=1e-12)
