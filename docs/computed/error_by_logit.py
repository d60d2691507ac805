import numpy as np
from matplotlib import pyplot as plt

import fastce
from fastce import reference


def draw():
    z = np.linspace(-120, 60, 3601).astype(np.float32)
    y = np.ones_like(z)
    truth = reference.bce_with_logits(z, y, reduction="none")
    with np.errstate(all="ignore"):
        p = 1 / (1 + np.exp(-z))
        direct = -np.log(p), p - y
    found = {
        "fastce": fastce.BCEWithLogits(reduction="none").value_and_grad(z, y),
        "direct formula": direct,
    }
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.5), sharey=True)
    for column, (ax, title) in enumerate(zip(axes, ["loss", "gradient"], strict=True)):
        for name, values in found.items():
            error = abs(values[column].astype(float) - truth[column]) / abs(truth[column])
            error = np.minimum(np.maximum.reduceat(error, np.arange(0, z.size, 20)), 10)
            ax.plot(
                z[::20],
                np.maximum(error, 1e-9),
                label=name,
                linewidth=2.6 if name == "fastce" else 1.3,
            )
        ax.axhline(np.finfo(np.float32).eps, color="0.5", linestyle=":", linewidth=1)
        ax.set(yscale="log", xlabel="logit z", title=title, ylim=(1e-9, 20))
    axes[0].set_ylabel("largest relative error")
    axes[0].legend(loc=(0.3, 0.55))
    return figure
