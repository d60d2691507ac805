import numpy as np
from matplotlib import pyplot as plt

import fastce

TRUTH = np.array([-0.5, 1.0])
BCE = fastce.BCEWithLogits(reduction="sum")


def draw():
    figure, (errors, histogram) = plt.subplots(1, 2, figsize=(9.5, 4.2))
    sizes = [30, 100, 300, 1000, 3000]
    slopes = {n: estimates(n, 200) for n in sizes}
    bounds = [bound for _, bound in slopes.values()]
    found = [np.sqrt(np.mean((slope - TRUTH[1]) ** 2)) for slope, _ in slopes.values()]
    errors.plot(sizes, bounds, label="Cramér-Rao bound")
    errors.plot(sizes, found, "o", label="root mean square error")
    errors.set(xscale="log", yscale="log", xlabel="samples n", ylabel="error of the slope")
    errors.set_yticks([0.05, 0.1, 0.2, 0.5], ["0.05", "0.1", "0.2", "0.5"])
    errors.minorticks_off()
    errors.legend()

    found, bound = estimates(300, 2000)
    histogram.hist(found, bins=50, density=True, color="C1", alpha=0.6, label="estimates")
    x = np.linspace(found.min(), found.max(), 300)
    density = np.exp(-(((x - TRUTH[1]) / bound) ** 2) / 2) / (bound * np.sqrt(2 * np.pi))
    histogram.plot(x, density, "C0", label="normal, variance of the bound")
    top = 1.1 * density.max()  # the line ends below the legend
    histogram.plot([TRUTH[1]] * 2, [0, top], color="0.5", linestyle=":", label="true slope")
    histogram.set(xlabel="estimated slope, n = 300", ylabel="density", ylim=(0, 1.75 * top))
    histogram.legend(loc="upper right")
    return figure


def estimates(n, count):
    """Return the slopes estimated from `count` samples, and the bound on their deviation."""
    rng = np.random.default_rng(n)
    x = np.column_stack([np.ones(n), rng.standard_normal(n)])
    p = 1 / (1 + np.exp(-x @ TRUTH))
    found = [newton(x, (rng.random(n) < p).astype(float)) for _ in range(count)]
    _, _, hess = BCE.value_grad_hess(x @ TRUTH, np.zeros(n))
    return np.array(found)[:, 1], np.sqrt(np.linalg.inv(x.T @ (hess[:, None] * x))[1, 1])


def newton(x, y):
    theta = np.zeros(2)
    for _ in range(8):
        _, grad, hess = BCE.value_grad_hess(x @ theta, y)
        theta -= np.linalg.solve(x.T @ (hess[:, None] * x), x.T @ grad)
    return theta
