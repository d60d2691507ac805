"""Train the output layer of a language model without storing all of its logits.

In a checkout: pip install .; python examples/linear_cross_entropy.py
"""

import tracemalloc
from time import perf_counter

import numpy as np

import fastce

TOKENS, FEATURES, VOCABULARY = 4096, 64, 16_000


def make_data(rng):
    """Hidden states that point at their next token, with noise, a tenth of them padding."""
    directions = rng.normal(size=(VOCABULARY, FEATURES)).astype(np.float32)
    # The frequencies of words follow Zipf's law.
    target = np.minimum(rng.zipf(1.3, TOKENS) - 1, VOCABULARY - 1)
    hidden = directions[target] + rng.normal(0, 0.5, (TOKENS, FEATURES)).astype(np.float32)
    target[rng.random(TOKENS) < 0.1] = -100
    return hidden.astype(np.float32), target


def whole_logits(hidden, weight, target, bias, loss):
    """What linear_cross_entropy does, with all logits at once."""
    logits = hidden @ weight.T + bias
    value, grad = loss.value_and_grad(logits, target)
    return value, grad @ weight, grad.T @ hidden, grad.sum(axis=0)


def train(step, hidden, target, steps=4, rate=5.0):
    """Descend; return the losses, the seconds per step, and the peak memory in MiB."""
    loss = fastce.SoftmaxCrossEntropy(z_loss=1e-4)
    weight, bias = np.zeros((VOCABULARY, FEATURES), np.float32), np.zeros(VOCABULARY, np.float32)
    history = []
    tracemalloc.start()
    start = perf_counter()
    for _ in range(steps):
        value, _, grad_weight, grad_bias = step(hidden, weight, target, bias, loss=loss)
        weight -= rate * grad_weight
        bias -= rate * grad_bias
        history.append(value)
    seconds = (perf_counter() - start) / steps
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return history, seconds, peak


if __name__ == "__main__":
    hidden, target = make_data(np.random.default_rng(0))
    print(f"the logits would take {4 * TOKENS * VOCABULARY / 2**20:.0f} MiB")
    runs = {"linear_cross_entropy": fastce.linear_cross_entropy, "whole logits": whole_logits}
    for name, step in runs.items():
        history, seconds, peak = train(step, hidden, target)
        losses = " ".join(f"{value:.4f}" for value in history)
        print(f"{name:21} losses {losses}; {peak:4.0f} MiB at the peak; {seconds:.2f} s a step")
