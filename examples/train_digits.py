"""Train a network with one hidden layer on handwritten digits, in plain NumPy with fastce.

Run: pip install "fastce[demo]"; python train_digits.py [PICTURE.png]
"""

import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import fastce.reference


def forward(params, x):
    w1, b1, w2, b2 = params
    hidden = np.maximum(x @ w1 + b1, 0)
    return hidden, hidden @ w2 + b2


def train(loss, params, x, y, rng, epochs=30, batch_size=32, learning_rate=2e-3):
    """Minimise the loss with Adam, in place; after each epoch, yield its mean training loss."""
    mean, square = ([np.zeros_like(p) for p in params] for _ in range(2))
    step = 0
    for _ in range(epochs):
        losses = []
        for rows in np.array_split(rng.permutation(len(x)), len(x) // batch_size):
            hidden, logits = forward(params, x[rows])
            value, d_logits = loss.value_and_grad(logits, y[rows])
            d_hidden = (d_logits @ params[2].T) * (hidden > 0)
            grads = x[rows].T @ d_hidden, d_hidden.sum(0), hidden.T @ d_logits, d_logits.sum(0)
            losses.append(value)

            step += 1
            rate = learning_rate * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            for p, g, m, s in zip(params, grads, mean, square, strict=True):
                m += 0.1 * (g - m)
                s += 0.001 * (g * g - s)
                p -= rate * m / (np.sqrt(s) + 1e-8)
        yield np.mean(losses)


# That is the training: train(fastce.SoftmaxCrossEntropy(), params, x, y, rng). The rest trains with
# it and with two NumPy losses on the same batches, times each inside the loop, and draws the run.


def plain_numpy(logits, target):
    rows = np.arange(len(target))
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    grad = np.exp(log_p)
    grad[rows, target] -= 1
    return -log_p[rows, target].mean(), grad / len(target)


class Timed:
    def __init__(self, function):
        self.function, self.seconds = function, 0.0

    def value_and_grad(self, logits, target):
        start = perf_counter()
        value, grad = self.function(logits, target)[:2]
        self.seconds += perf_counter() - start
        return value, grad


def run(name, loss):
    images, y = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    rng = np.random.default_rng(0)
    w1 = rng.normal(0, (2 / 64) ** 0.5, (64, 128)).astype(np.float32)
    w2 = rng.normal(0, (2 / 128) ** 0.5, (128, 10)).astype(np.float32)
    params = w1, np.zeros(128, np.float32), w2, np.zeros(10, np.float32)
    history = []
    for value in tqdm(train(loss, params, x, y, rng), name, total=30, unit="epoch"):
        history.append((value, np.mean(forward(params, x_test)[1].argmax(1) == y_test)))
    print(f"{name:16}  {history[-1][1]:.2%} held-out accuracy, {loss.seconds:.3f} s in the loss")
    return history


if __name__ == "__main__":
    history = run("fastce", Timed(fastce.SoftmaxCrossEntropy().value_and_grad))
    run("plain NumPy", Timed(plain_numpy))
    # This one works in float64 and computes the Hessian as well.
    run("fastce.reference", Timed(fastce.reference.softmax_cross_entropy))

    figure, titles = Figure((9, 3.5), layout="constrained"), ("training loss", "held-out accuracy")
    for ax, curve, title in zip(figure.subplots(1, 2), np.transpose(history), titles, strict=True):
        ax.plot(range(1, 31), curve, marker=".")
        ax.set(title=title, xlabel="epoch")
        ax.grid(alpha=0.3)
    picture = Path(*sys.argv[1:] or ["train_digits.png"]).resolve()
    figure.savefig(picture, dpi=150)
    print(f"picture of the run: {picture}")
