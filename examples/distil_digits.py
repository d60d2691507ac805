"""Distil a wide network into a narrow one on handwritten digits, in plain NumPy with fastce.

The narrow network learns once from a few labels, and once from the logits of the wide network for
all images, which show which digits look alike.

In a checkout: pip install ".[demo]"; python examples/distil_digits.py
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastce

EPOCHS = 60


def new_network(width, seed):
    rng = np.random.default_rng(seed)
    w1 = rng.normal(0, (2 / 64) ** 0.5, (64, width)).astype(np.float32)
    w2 = rng.normal(0, (2 / width) ** 0.5, (width, 10)).astype(np.float32)
    return [w1, np.zeros(width, np.float32), w2, np.zeros(10, np.float32)]


def forward(params, x):
    w1, b1, w2, b2 = params
    hidden = np.maximum(x @ w1 + b1, 0)
    return hidden, hidden @ w2 + b2


def train(loss, params, x, target, steps=32, learning_rate=2e-3):
    """Minimise the loss with Adam, in place; yield after each epoch of `steps` steps."""
    rng, step = np.random.default_rng(0), 0
    mean, square = ([np.zeros_like(p) for p in params] for _ in range(2))
    for _ in range(EPOCHS):
        for rows in np.array_split(rng.permutation(len(x)), steps):
            hidden, logits = forward(params, x[rows])
            _, d_logits = loss.value_and_grad(logits, target[rows])
            d_hidden = (d_logits @ params[2].T) * (hidden > 0)
            grads = x[rows].T @ d_hidden, d_hidden.sum(0), hidden.T @ d_logits, d_logits.sum(0)
            step += 1
            rate = learning_rate * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            for p, g, m, s in zip(params, grads, mean, square, strict=True):
                m += 0.1 * (g - m)
                s += 0.001 * (g * g - s)
                p -= rate * m / (np.sqrt(s) + 1e-8)
        yield


if __name__ == "__main__":
    images, y = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    few = 200  # images with labels for the narrow network

    def accuracy(params):
        return np.mean(forward(params, x_test)[1].argmax(1) == y_test)

    teacher = new_network(256, seed=1)
    for _ in train(fastce.SoftmaxCrossEntropy(), teacher, x, y):
        pass
    teacher_logits = forward(teacher, x)[1]
    print(f"teacher, 256 units, {len(x)} labels: {accuracy(teacher):.1%}")

    curves = {}
    for name, loss, data, target in (
        (f"{few} labels", fastce.SoftmaxCrossEntropy(), x[:few], y[:few]),
        ("teacher's logits", fastce.SoftmaxKLDivergence(temperature=3.0), x, teacher_logits),
    ):
        narrow = new_network(12, seed=2)
        curves[name] = [accuracy(narrow) for _ in train(loss, narrow, data, target)]
        print(f"student, 12 units, {name}: {curves[name][-1]:.1%} held-out accuracy")

    figure = Figure((5.5, 3.5), layout="constrained")
    ax = figure.add_subplot()
    for name, curve in curves.items():
        ax.plot(range(1, EPOCHS + 1), curve, label=name)
    ax.axhline(accuracy(teacher), color="gray", linestyle="--", label="teacher")
    ax.set(title="12 hidden units, held-out accuracy", xlabel="epoch", ylim=(0.5, 1))
    ax.legend()
    ax.grid(alpha=0.3)
    picture = Path(*sys.argv[1:] or ["distil_digits.png"]).resolve()
    figure.savefig(picture, dpi=150)
    print(f"picture of both: {picture}")
