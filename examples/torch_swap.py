"""Replace torch's loss in a training script: the same losses at every step, in less time.

In a checkout: pip install ".[torch]"; python examples/torch_swap.py
"""

from time import perf_counter

import torch

import fastce.torch


def train(loss, steps=12, classes=4000):
    """Train a small classifier of many classes; return its losses and the seconds spent in them."""
    torch.manual_seed(0)
    features = torch.randn(1024, 64)
    target = torch.randint(0, classes, (1024,))
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, classes)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    history, seconds = [], 0.0
    for _ in range(steps):
        logits = model(features)
        start = perf_counter()
        value = loss(logits, target)
        (grad,) = torch.autograd.grad(value, logits)  # apart from the model's backward, to time it
        seconds += perf_counter() - start
        optimizer.zero_grad()
        logits.backward(grad)
        optimizer.step()
        history.append(value.item())
    return history, seconds


if __name__ == "__main__":
    theirs, torch_seconds = train(torch.nn.CrossEntropyLoss(label_smoothing=0.1))
    # This is the swap.
    ours, fastce_seconds = train(fastce.torch.CrossEntropyLoss(label_smoothing=0.1))

    for step in (0, 5, 11):
        print(f"step {step:2}: loss {theirs[step]:.5f} with torch, {ours[step]:.5f} with fastce")
    difference = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    print(f"largest relative difference of a step's loss: {difference:.1e}")
    print(f"time in the loss: {torch_seconds:.3f} s with torch, {fastce_seconds:.3f} s with fastce")
