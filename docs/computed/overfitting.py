import numpy as np
from matplotlib import pyplot as plt
from overfitting_run import train


def draw():
    steps = np.unique(np.geomspace(5, 1000, 60).astype(int))
    figure, (losses, accuracies) = plt.subplots(1, 2, figsize=(9.5, 3.8))
    for color, decay in (("C0", 0.0), ("C1", 0.003)):
        name = f", decay {decay:g}" if decay else ""
        training, held_out, accuracy, _ = train(decay, set(steps)).T
        losses.plot(steps, training, color, linestyle="--", label=f"training{name}")
        losses.plot(steps, held_out, color, label=f"new{name}")
        accuracies.plot(steps, accuracy, color, label=f"decay {decay:g}" if decay else "no decay")
        if not decay:
            best = steps[held_out.argmin()]
    for ax in (losses, accuracies):
        ax.axvline(best, color="0.5", linewidth=1, linestyle=":")
        ax.set(xscale="log", xlabel="step")
    losses.set(yscale="log", ylabel="cross-entropy")
    accuracies.set(ylabel="accuracy on new images", ylim=(0.6, 0.95))
    losses.legend(fontsize=10, loc="lower left")
    accuracies.legend(fontsize=10, loc="lower right")
    return figure
