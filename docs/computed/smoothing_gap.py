import numpy as np
from matplotlib import pyplot as plt

import fastce


def draw(classes=10, steps=1000):
    figure, ax = plt.subplots(figsize=(7, 3.5))
    for color, smoothing in [("C0", 0.0), ("C1", 0.01), ("C2", 0.1), ("C3", 0.3)]:
        ce = fastce.SoftmaxCrossEntropy(label_smoothing=smoothing)
        logits, target, gaps = np.zeros((1, classes)), np.array([0]), []
        for _ in range(steps):
            _, grad = ce.value_and_grad(logits, target)
            logits -= 5 * grad
            gaps.append(logits[0, 0] - logits[0, 1])
        ax.plot(np.arange(1, steps + 1), gaps, color, label=f"ε = {smoothing}")
        if smoothing > 0:
            optimum = np.log(((1 - smoothing) * classes + smoothing) / smoothing)
            ax.axhline(optimum, color=color, linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel="step", ylabel="gap of the logits")
    ax.legend()
    return figure
