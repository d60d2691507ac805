"""A network that has learned 200 digits by heart, for the page on calibration and its figure."""

import numpy as np
from sklearn.datasets import load_digits

import fastce


def parts():
    """Return 200 digits to train on, 600 to fit a temperature on, and 997 to report."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x = x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)  # coarse, so that it errs
    x, y = x[order] / 16, y[order]
    return [(x[a:b], y[a:b]) for a, b in ((0, 200), (200, 800), (800, 1797))]


def train(x, y, label_smoothing=0.0, steps=2000, rate=0.5, hidden=128):
    """Return the function from pixels to logits that gradient descent has found."""
    rng = np.random.default_rng(1)
    inner = rng.normal(scale=0.25, size=(16, hidden))
    outer = rng.normal(scale=hidden**-0.5, size=(hidden, 10))
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=label_smoothing)
    for _ in range(steps):
        features = np.maximum(x @ inner, 0)
        _, grad = loss.value_and_grad(features @ outer, y)
        inner -= rate * x.T @ ((grad @ outer.T) * (features > 0))
        outer -= rate * features.T @ grad
    return lambda pixels: np.maximum(pixels @ inner, 0) @ outer
