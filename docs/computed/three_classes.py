import numpy as np
from matplotlib import pyplot as plt

import fastce


def draw():
    figure, (plane, bars) = plt.subplots(1, 2, figsize=(9.5, 3.9))
    ce = fastce.SoftmaxCrossEntropy(reduction="none")

    axis = np.linspace(-5, 5, 101)
    grid = np.stack([*np.meshgrid(axis, axis), np.zeros((101, 101))], axis=-1)
    loss, grad = ce.value_and_grad(grid.reshape(-1, 3), np.zeros(101 * 101, np.int64))
    loss, grad = loss.reshape(101, 101), grad.reshape(101, 101, 3)
    levels = [0.05, 0.2, 0.5, 1, 2, 3, 4, 6, 8]
    contours = plane.contour(axis, axis, loss, levels, colors="C0", linewidths=1.4)
    plane.clabel(contours, fontsize=8)
    few = np.s_[5::15, 5::15]
    plane.quiver(
        grid[few][..., 0],
        grid[few][..., 1],
        -grad[few][..., 0],
        -grad[few][..., 1],
        color="C1",
        scale=22,
        width=0.005,
    )
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
