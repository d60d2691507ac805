import numpy as np
from matplotlib import pyplot as plt
from peers import cross_entropy_peers, line_of

from fastce import reference


def draw():
    rng = np.random.default_rng(0)
    counts = 4 ** np.arange(1, 9)
    errors = {name: [] for name in cross_entropy_peers()}
    for classes in counts:
        rows = max(2**18 // classes, 8)
        logits = (3 * rng.standard_normal((rows, classes))).astype(np.float32)
        target = rng.integers(0, classes, rows)
        loss, grad, _ = reference.softmax_cross_entropy(logits, target, reduction="none")
        for name, peer in cross_entropy_peers().items():
            found = peer(logits, target)
            errors[name].append(
                [np.max(abs(f - t) / abs(t)) for f, t in zip(found, (loss, grad), strict=True)]
            )

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.7), sharey=True)
    for column, (ax, title) in enumerate(zip(axes, ["loss", "gradient"], strict=True)):
        for name, values in errors.items():
            ax.plot(counts, np.array(values)[:, column], label=name, **line_of(name))
        ax.axhline(np.finfo(np.float32).eps, color="0.5", linestyle=":", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="classes", title=title, ylim=(1e-8, 5))
    axes[0].set_ylabel("largest relative error")
    axes[0].legend()
    return figure
