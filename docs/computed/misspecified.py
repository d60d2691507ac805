import numpy as np
from matplotlib import pyplot as plt
from scipy.optimize import minimize

import fastce


def draw():
    rng = np.random.default_rng(2)
    x = rng.uniform(-3, 3, 300_000)
    y = (rng.random(x.size) < true_probability(x)).astype(float)
    design = np.column_stack([np.ones_like(x), x])
    bce = fastce.BCEWithLogits()

    def objective(theta):
        loss, grad = bce.value_and_grad(design @ theta, y)
        return loss, design.T @ grad

    intercept, slope = minimize(objective, np.zeros(2), jac=True).x

    figure, ax = plt.subplots(figsize=(7, 3.4))
    grid = np.linspace(-3, 3, 400)
    edges = np.linspace(-3, 3, 31)
    count, _ = np.histogram(x, edges)
    positive, _ = np.histogram(x[y == 1], edges)
    ax.plot(
        (edges[1:] + edges[:-1]) / 2,
        positive / count,
        "o",
        color="0.5",
        markersize=3.5,
        label="share of positive labels",
    )
    ax.plot(grid, true_probability(grid), label="true probability")
    ax.plot(grid, 1 / (1 + np.exp(-intercept - slope * grid)), label="closest logistic curve")
    ax.set(xlabel="x", ylabel="P(y = 1)", ylim=(0, 1.05))
    ax.legend(loc="upper left")
    return figure


def true_probability(x):
    return 0.1 + 0.8 * np.exp(-((x - 1) ** 2))
