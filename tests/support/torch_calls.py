"""What tests of fastce.torch share: types, logits, calls of each function, and comparisons.

Import it after `pytest.importorskip("torch")`.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as functional

import fastce.torch as bridge

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# torch computes 16-bit losses with intermediates in 16 bits: the errors are torch's.
RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


# Ours and torch's.
CROSS_ENTROPIES = bridge.cross_entropy, functional.cross_entropy
BINARY_CROSS_ENTROPIES = (
    bridge.binary_cross_entropy_with_logits,
    functional.binary_cross_entropy_with_logits,
)


def logits_of(*shape, dtype=torch.float32):
    return (2 * torch.randn(*shape, dtype=torch.float64)).to(dtype).requires_grad_()


def both(ours, theirs, logits, *arguments, **options):
    """Return (loss, gradient) of two functions, for a loss of any shape."""
    results = []
    for function in (ours, theirs):
        leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        loss = function(leaf, *arguments, **options)
        factor = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
        loss.backward(factor if loss.ndim else None)
        results.append((loss.detach(), leaf.grad))
    return results


def assert_same(results, scale=1.0):
    (loss, grad), (expected_loss, expected_grad) = results
    assert loss.dtype == expected_loss.dtype
    assert loss.shape == expected_loss.shape
    assert grad.dtype == expected_grad.dtype
    relative = RELATIVE[grad.dtype] * scale
    torch.testing.assert_close(loss, expected_loss, rtol=relative, atol=relative)
    largest = float(expected_grad.abs().max())
    torch.testing.assert_close(grad, expected_grad, rtol=relative, atol=relative * largest)


class Model(torch.nn.Module):
    """A classifier that holds its loss, as many do."""

    def __init__(self, loss):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5)
        )
        self.loss = loss

    def forward(self, features, target):
        return self.loss(self.layers(features), target)


def data():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(64, 8, generator=generator)
    return features, torch.randint(0, 5, (64,), generator=generator)


def train(model, optimizer, steps):
    """Return the loss of each step."""
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(*data())
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def calls(dtype):
    """Yield (loss of logits and target, logits, target) for each function and kind of option."""
    labels = torch.tensor([0, 4, -100, 2, 1, 3])
    weight = torch.linspace(0.5, 1.5, 5, dtype=dtype)
    halves = torch.tensor([[0.0, 1.0], [0.25, 1.0], [1.0, 0.0]], dtype=dtype)
    shares = torch.linspace(0.0, 1.0, 30, dtype=dtype).reshape(6, 5)
    classes = torch.arange(5) != (labels[:, None] + 1) % 5
    scaled = {"z_loss": 0.1, "logit_scale": 0.7, "softcap": 3.0}
    for reduction in ("mean", "sum", "none"):
        for function, target, shape, options in (
            (bridge.cross_entropy, labels, (6, 5), {"weight": weight, "label_smoothing": 0.1}),
            (bridge.cross_entropy, labels.reshape(3, 2), (3, 5, 2), {}),
            (bridge.cross_entropy, labels, (6, 5), {"where": classes, **scaled}),
            (bridge.cross_entropy, shares, (6, 5), {"label_smoothing": 0.1, **scaled}),
            (bridge.softmax_focal_loss, labels, (6, 5), {"gamma": 1.5, "alpha": weight}),
            (bridge.kl_divergence, 4 * shares, (6, 5), {"temperature": 2.0, "where": classes}),
            (
                bridge.binary_cross_entropy_with_logits,
                halves,
                (3, 2),
                {"weight": weight[:2] - 1, "pos_weight": weight[:2], "where": halves != 0.25},
            ),
            (bridge.sigmoid_focal_loss, halves, (3, 2), {"label_smoothing": 0.1}),
            (bridge.sigmoid_focal_loss, halves, (3, 2), {"alpha": None, "where": halves != 0.25}),
        ):
            loss = partial(function, reduction=reduction, **options)
            yield loss, logits_of(*shape, dtype=dtype), target
