import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import fastce


def draw():
    pixels, digit = load_digits(return_X_y=True)
    x = np.column_stack([np.ones(len(pixels)), (pixels - 8) / 8])
    y = (digit == 8).astype(float)
    bce, weights = fastce.BCEWithLogits(), np.zeros(65)
    for _ in range(50):
        weights -= 0.3 * (x.T @ bce.value_and_grad(x @ weights, y)[1])
    z = x @ weights

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.5), sharey=True)
    for ax, label, name in zip(axes, [1, 0], ["positives", "negatives"], strict=True):
        for gamma in (0, 1, 2, 5):
            focal = fastce.SigmoidFocalLoss(gamma=gamma, alpha=None, reduction="none")
            pull = np.sort(np.abs(focal.value_and_grad(z, y)[1])[y == label])
            share = np.arange(1, len(pull) + 1) / len(pull)
            ax.plot(share, pull.cumsum() / pull.sum(), label=f"γ = {gamma}")
        ax.set(xlabel=f"share of the {len(pull)} {name}, easy to hard")
    axes[0].set_ylabel("share of the gradient")
    axes[0].legend()
    return figure
