import numpy as np
from matplotlib import pyplot as plt
from scipy.optimize import brentq

import fastce


def draw():
    figure, (plane, bars) = plt.subplots(1, 2, figsize=(9.5, 4.4))
    ce = fastce.SoftmaxCrossEntropy(reduction="none")

    axis = np.linspace(-5, 5, 101)
    grid = np.stack([*np.meshgrid(axis, axis), np.zeros((101, 101))], axis=-1)
    loss, grad = ce.value_and_grad(grid.reshape(-1, 3), np.zeros(101 * 101, np.int64))
    loss, grad = loss.reshape(101, 101), grad.reshape(101, 101, 3)
    levels = [0.05, 0.2, 0.5, 1, 2, 3, 4, 6, 8]
    contours = plane.contour(axis, axis, loss, levels, colors="C0", linewidths=1.4)
    # Labels along the falling diagonal, between the arrows.
    places = [place_of(level) for level in levels]
    few = np.s_[8::17, 8::17]
    plane.quiver(
        grid[few][..., 0],
        grid[few][..., 1],
        -grad[few][..., 0],
        -grad[few][..., 1],
        color="C1",
        scale=22,
        width=0.005,
        zorder=1,
    )
    plane.clabel(contours, manual=places, fontsize=11)
    plane.set(xlabel="$z_0$, the target's logit", ylabel="$z_1$", title="loss (nats)")
    plane.grid(visible=False)

    logits, target = np.array([[0.5, 1.5, -1.0]]), np.array([0])
    _, grad = ce.value_and_grad(logits, target)
    values = {
        "prediction p": fastce.softmax(logits)[0],
        "target q": np.eye(3)[0],
        "gradient p − q": grad[0],
    }
    for position, (label, heights) in enumerate(values.items()):
        bars.bar(np.arange(3) + 0.27 * (position - 1), heights, width=0.25, label=label)
    bars.axhline(0, color="0.5", linewidth=0.8)
    bars.set(xticks=range(3), xlabel="class", title="logits 0.5, 1.5, −1")
    bars.grid(visible=False, axis="x")
    bars.legend()
    return figure


def place_of(level):
    """Return the point z_1 = 1 − z_0 at which the loss has a level."""
    ce = fastce.SoftmaxCrossEntropy()
    x = brentq(lambda x: ce(np.array([[x, 1 - x, 0.0]]), [0]) - level, -20, 20)
    return x, 1 - x
