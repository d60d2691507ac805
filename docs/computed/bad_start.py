import numpy as np
from matplotlib import pyplot as plt

import fastce


def draw():
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 2).astype(float)
    x = rng.standard_normal((400, 2)) + np.where(y, 1.5, -1.5)[:, None]

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3))
    bce = fastce.BCEWithLogits(reduction="none")
    for name, loss in {"cross-entropy": bce.value_and_grad, "squared error": squared}.items():
        weights = np.array([-8.0, -8.0])
        accuracy, norm = [], []
        for _ in range(1000):
            z = x @ weights
            gradient = x.T @ loss(z, y)[1] / len(x)
            accuracy.append(np.mean((z > 0) == y))
            norm.append(np.linalg.norm(gradient))
            weights -= 0.5 * gradient
        left.plot(accuracy, label=name)
        right.plot(norm, label=name)
    left.set(xlabel="step", ylabel="accuracy", xscale="symlog", ylim=(-0.03, 1.03))
    right.set(xlabel="step", ylabel="norm of the gradient", xscale="symlog", yscale="log")
    left.legend(loc="center right")
    return figure


def squared(z, y):
    p = 1 / (1 + np.exp(-z))
    return (p - y) ** 2, 2 * (p - y) * p * (1 - p)
