import numpy as np
from matplotlib import pyplot as plt

import fastce
from fastce.information import binary_cross_entropy
from fastce.plots import loss_curves


def draw():
    figure, (probability, loss, gradient) = plt.subplots(1, 3, figsize=(9.5, 3.3))
    p = np.linspace(0.002, 0.998, 500)
    for y, color in [(1, "C0"), (0, "C1")]:
        probability.plot(p, binary_cross_entropy(y, p), color, label=f"y = {y}")
    probability.set(xlabel="probability p of y = 1", ylabel="loss (nats)")
    probability.legend()

    bce = fastce.BCEWithLogits()
    loss_curves({"y = 1": bce}, target=1, axes=(loss, gradient))
    loss_curves({"y = 0": bce}, target=0, axes=(loss, gradient))
    loss.plot([-8, 0], [8, 0], "C0:", [0, 8], [0, 8], "C1:", linewidth=1.2)
    return figure
