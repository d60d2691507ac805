from itertools import cycle

from bench_results import RESULTS
from matplotlib import pyplot as plt

KINDS = {"normal": "logits of standard deviation 3", "confident": "confident and right"}


def draw():
    threads = min(RESULTS["machine"]["threads"])
    measured = [
        cell
        for cell in RESULTS["cells"]
        if cell["threads"] == threads and cell["errors"] and cell["elements"] >= 10_000
        if cell["cell"].startswith("softmax_cross_entropy") and cell["cell"].endswith("float32")
    ]
    names = dict.fromkeys(name for cell in measured for name in cell["seconds"])
    others = [name for name in names if name not in ("limit", "fastce", "fastce, new array")]

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.4), sharex=True, sharey=True)
    for ax, (kind, title) in zip(axes, KINDS.items(), strict=True):
        markers = cycle("osv^P<>X")
        for name in ["fastce", *others]:
            points = [
                (
                    cell["seconds"][name]["minimum"] / cell["elements"] * 1e9,
                    max(cell["errors"][name][kind]["value"], 1e-9),
                )
                for cell in measured
                if name in cell["seconds"] and kind in cell["errors"].get(name, {})
            ]
            is_ours = name == "fastce"
            marker = "D" if is_ours else next(markers)
            if points:
                ax.scatter(
                    *zip(*points, strict=True), label=name, marker=marker, s=70 if is_ours else 30
                )
        ax.set(xscale="log", yscale="log", xlabel="nanoseconds an element", title=title)
    axes[0].set_ylabel("largest relative error of a loss")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=10)
    return figure
