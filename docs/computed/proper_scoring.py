import numpy as np
from matplotlib import pyplot as plt

from fastce.information import binary_cross_entropy


def draw():
    figure, ax = plt.subplots(figsize=(7, 3.4))
    p, q = 0.7, np.linspace(0.005, 0.995, 991)
    for name, loss in {
        "cross-entropy": binary_cross_entropy(p, q),
        "squared error": p * (1 - q) ** 2 + (1 - p) * q**2,
        "absolute error": p * (1 - q) + (1 - p) * q,
    }.items():
        (line,) = ax.plot(q, loss, label=name)
        ax.plot(q[loss.argmin()], loss.min(), "o", color=line.get_color())
    ax.axvline(p, color="0.5", linestyle=":", linewidth=1.2)
    ax.set(xlabel="predicted probability q", ylabel="expected loss", ylim=(0, 2))
    ax.legend()
    return figure
