import numpy as np
from matplotlib import pyplot as plt
from scipy.optimize import minimize
from scipy.special import softmax

from fastce.information import kl_divergence

X = np.linspace(-10, 10, 401)


def draw():
    p = softmax(np.logaddexp(-((X + 2) ** 2) / 0.5, -((X - 2) ** 2) / 0.5))
    covering = minimize(lambda v: kl_divergence(p, bell(v)), [0.5, 0], method="Nelder-Mead").x
    seeking = minimize(lambda v: kl_divergence(bell(v), p), [0.5, 0], method="Nelder-Mead").x
    figure, ax = plt.subplots(figsize=(7, 3.3))
    ax.fill_between(X, p, color="0.5", alpha=0.35, label="p", linewidth=0)
    ax.plot(X, bell(covering), label="q with the smallest KL(p‖q)")
    ax.plot(X, bell(seeking), label="q with the smallest KL(q‖p)")
    ax.set(xlabel="x", ylabel="probability", xlim=(-6, 6), ylim=(0, None))
    ax.legend(loc="upper left")
    return figure


def bell(parameters):
    centre, log_width = parameters
    return softmax(-0.5 * ((X - centre) / np.exp(log_width)) ** 2)
