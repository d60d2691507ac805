"""What tests of fastce.torch share: types, logits, calls of each operator, and comparisons.

Import it after `pytest.importorskip("torch")`.
"""

from __future__ import annotations

import torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# torch computes 16-bit losses with intermediates in 16 bits: it is the one that is off.
RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


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


def calls(dtype):
    """One call of each operator: (operator, logits, target, options less the loss's dtype)."""
    labels = torch.tensor([0, 4, -100, 2, 1, 3])
    weight = torch.linspace(0.5, 1.5, 5, dtype=dtype)
    halves = torch.tensor([[0.0, 1.0], [0.25, 1.0], [1.0, 0.0]], dtype=dtype)
    for reduction in ("mean", "sum", "none"):
        for name, logits, target, options in (
            ("softmax_cross_entropy", (6, 5), labels, (weight, -100, 0.1)),
            ("softmax_cross_entropy", (3, 5, 2), labels.reshape(3, 2), (None, -100, 0.0)),
            ("softmax_focal_loss", (6, 5), labels, (1.5, weight, -100)),
            ("bce_with_logits", (3, 2), halves, (weight[:2], weight[:2])),
            ("sigmoid_focal_loss", (3, 2), halves, (2.0, 0.25, 0.1)),
        ):
            yield name, logits_of(*logits, dtype=dtype), target, (*options, reduction)
