from bench_results import LOOKS, RESULTS, look
from matplotlib import pyplot as plt

KINDS = {"normal": "logits with standard deviation 3", "confident": "confident and correct"}


def draw():
    threads = min(RESULTS["machine"]["threads"])
    measured = [
        cell
        for cell in RESULTS["cells"]
        if cell["threads"] == threads and cell["errors"] and cell["elements"] >= 10_000
        if cell["cell"].startswith("softmax_cross_entropy") and cell["cell"].endswith("float32")
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.6), sharex=True, sharey=True)
    for ax, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for name in LOOKS:
            points = [
                (
                    cell["seconds"][name]["minimum"] / cell["elements"] * 1e9,
                    max(cell["errors"][name][kind]["value"], 1e-9),
                )
                for cell in measured
                if name in cell["seconds"] and kind in cell["errors"].get(name, {})
            ]
            size = 70 if name == "fastce" else 34
            if points:
                ax.scatter(*zip(*points, strict=True), label=name, s=size, **look(name))
        ax.set(xscale="log", yscale="log", xlabel="nanoseconds per element", title=title)
    axes[0].set_ylabel("largest relative error of the loss")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4)
    return figure
