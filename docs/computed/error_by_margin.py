import numpy as np
from matplotlib import pyplot as plt
from peers import cross_entropy_peers, line_of

from fastce import reference

CLASSES = 10
ROWS = 300


def draw():
    rng = np.random.default_rng(0)
    margins = np.linspace(-10, 40, 41)
    errors = {name: [] for name in cross_entropy_peers()}
    for margin in margins:
        logits = rng.standard_normal((ROWS, CLASSES)).astype(np.float32)
        target = rng.integers(0, CLASSES, ROWS)
        rows = np.arange(ROWS)
        logits[rows, target] = -np.inf
        logits[rows, target] = logits.max(axis=1) + np.float32(margin)
        loss, grad, _ = reference.softmax_cross_entropy(logits, target, reduction="none")
        truth = loss, grad[rows, target]
        for name, peer in cross_entropy_peers().items():
            loss, grad = peer(logits, target)
            found = loss, grad[rows, target]
            errors[name].append(
                [np.max(abs(f - t) / abs(t)) for f, t in zip(found, truth, strict=True)]
            )

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.7), sharey=True)
    for column, (ax, title) in enumerate(zip(axes, ["loss", "target's gradient"], strict=True)):
        for name, values in errors.items():
            ax.plot(margins, np.array(values)[:, column], label=name, **line_of(name))
        ax.axhline(np.finfo(np.float32).eps, color="0.5", linestyle=":", linewidth=1)
        ax.set(yscale="log", xlabel="margin of the target's logit", title=title, ylim=(1e-8, 5))
    axes[0].set_ylabel("largest relative error")
    axes[0].legend()
    return figure
