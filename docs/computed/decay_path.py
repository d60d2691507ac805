import numpy as np
from matplotlib import pyplot as plt
from overfitting_run import train


def draw():
    decays = np.geomspace(3e-4, 0.06, 9)
    training, held_out, _, norm = np.array([train(decay, {1000})[0] for decay in decays]).T
    figure, (losses, norms) = plt.subplots(1, 2, figsize=(9.5, 3.5))
    losses.plot(decays, training, "C0", linestyle="--", marker=".", label="training")
    losses.plot(decays, held_out, "C0", marker=".", label="new images")
    losses.set(xscale="log", xlabel="weight decay", ylabel="cross-entropy", ylim=(0, None))
    losses.legend()
    norms.plot(decays, norm, "C2", marker=".")
    norms.set(xscale="log", xlabel="weight decay", ylabel="norm of the weights", ylim=(0, None))
    return figure
