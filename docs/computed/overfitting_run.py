"""The network of the page on regularisation: 200 digits, of which 20 have a random label."""

import numpy as np
from sklearn.datasets import load_digits

import fastce

CROSS_ENTROPY = fastce.SoftmaxCrossEntropy()


def data():
    pixels, digit = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pixels))
    x, y = pixels[order] / 16, digit[order]
    y_train = y[:200].copy()
    y_train[rng.permutation(200)[:20]] = rng.integers(10, size=20)
    return x[:200], y_train, x[600:], y[600:]


def train(decay, watched):
    """Return, for each watched step: training loss, held-out loss and accuracy, norm of weights."""
    x_train, y_train, x_new, y_new = data()
    rng = np.random.default_rng(1)
    w1 = rng.normal(0, np.sqrt(2 / 64), (64, 64))
    w2 = rng.normal(0, np.sqrt(2 / 64), (64, 10))
    history = []
    for step in range(1, max(watched) + 1):
        hidden = np.maximum(x_train @ w1, 0)
        value, grad = CROSS_ENTROPY.value_and_grad(hidden @ w2, y_train)
        back = (grad @ w2.T) * (hidden > 0)
        w2 -= 0.5 * (hidden.T @ grad + decay * w2)
        w1 -= 0.5 * (x_train.T @ back + decay * w1)
        if step in watched:
            new = np.maximum(x_new @ w1, 0) @ w2
            accuracy = (new.argmax(axis=1) == y_new).mean()
            norm = np.sqrt(np.sum(w1**2) + np.sum(w2**2))
            history.append((value, CROSS_ENTROPY(new, y_new), accuracy, norm))
    return np.array(history)
