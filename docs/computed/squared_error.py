import numpy as np
from matplotlib import pyplot as plt

import fastce
from fastce.plots import loss_curves


def draw():
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.3))
    loss_curves({"cross-entropy": fastce.BCEWithLogits()}, hessian=True, axes=axes)
    z = np.linspace(-8, 8, 401)
    p = 1 / (1 + np.exp(-z))
    squared = (1 - p) ** 2, -2 * p * (1 - p) ** 2, 2 * p * (1 - p) ** 2 * (3 * p - 1)
    for ax, curve in zip(axes, squared, strict=True):
        ax.plot(z, curve, label="squared error")
    axes[0].legend()
    axes[0].set_ylabel("loss")
    axes[2].set_ylabel("second derivative")
    axes[2].axhline(0, color="0.5", linewidth=0.8)
    return figure
