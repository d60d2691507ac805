"""Train the network of digits.py with three losses, time each inside the loop, and draw the run.

In a checkout: pip install ".[demo]"; python examples/train_digits.py [PICTURE.png]
"""

import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from digits import train, x, x_test, y, y_test
from matplotlib.figure import Figure
from tqdm import tqdm

import fastce.reference


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


def run(name, function):
    loss, history = Timed(function), []
    for w1, w2, mean in tqdm(train(loss, x, y), name, total=30, unit="epoch"):
        is_right = (np.maximum(x_test @ w1, 0) @ w2).argmax(axis=1) == y_test
        history.append((mean, is_right.mean()))
    print(f"{name:16}  {history[-1][1]:.2%} held-out accuracy, {loss.seconds:.3f} s in the loss")
    return history


if __name__ == "__main__":
    history = run("fastce", fastce.SoftmaxCrossEntropy().value_and_grad)
    run("plain NumPy", plain_numpy)
    # This one works in float64 and computes the Hessian as well.
    run("fastce.reference", fastce.reference.softmax_cross_entropy)

    figure, titles = Figure((9, 3.5), layout="constrained"), ("training loss", "held-out accuracy")
    for ax, curve, title in zip(figure.subplots(1, 2), np.transpose(history), titles, strict=True):
        ax.plot(range(1, 31), curve, marker=".")
        ax.set(title=title, xlabel="epoch")
        ax.grid(alpha=0.3)
    picture = Path(*sys.argv[1:] or ["train_digits.png"]).resolve()
    figure.savefig(picture, dpi=150)
    print(f"picture of the run: {picture}")
