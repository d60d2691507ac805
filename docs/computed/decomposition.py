import numpy as np
from matplotlib import pyplot as plt

from fastce.information import cross_entropy, entropy, kl_divergence


def draw():
    figure, ax = plt.subplots(figsize=(7, 3.5))
    q1 = np.linspace(0.01, 0.99, 500)
    p, q = np.array([0.7, 0.3]), np.stack([1 - q1, q1], axis=-1)
    ax.plot(q1, cross_entropy(p, q), label="cross-entropy H(p, q)")
    ax.plot(q1, kl_divergence(p, q), label="divergence KL(p‖q)")
    ax.axhline(entropy(p), color="C2", linestyle="--", label="entropy H(p)")
    ax.plot([0.3, 0.3], [0, entropy(p)], "o:", color="0.5", linewidth=1.2, markersize=5)
    ax.set(xlabel="q, the predicted probability", ylabel="nats", ylim=(-0.05, 2.2))
    ax.legend(loc="upper center")
    return figure
