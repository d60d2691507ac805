from matplotlib import pyplot as plt

import fastce
from fastce.plots import loss_curves


def draw():
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.3))
    losses = {
        f"γ = {gamma}": fastce.SigmoidFocalLoss(gamma=gamma, alpha=None)
        for gamma in (0, 0.5, 1, 2, 5)
    }
    loss_curves(losses, hessian=True, axes=axes)
    axes[2].axhline(0, color="0.5", linewidth=0.8)
    return figure
