from bench_results import LOOKS, RESULTS, look
from matplotlib import pyplot as plt


def draw():
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.6), sharey=True)
    for ax, sweep in zip(axes, ["classes", "rows"], strict=True):
        measured = RESULTS["sweeps"][sweep]
        names = {name for cell in measured for name in cell["seconds"]}
        for name in [*(name for name in LOOKS if name in names), "limit"]:
            points = [
                (cell[sweep], cell["seconds"][name]["minimum"] / cell["elements"] * 1e9)
                for cell in measured
                if name in cell["seconds"]
            ]
            is_ours = name == "fastce"
            ax.plot(
                *zip(*points, strict=True),
                label="copy" if name == "limit" else name,
                linestyle="--" if name == "limit" else "-",
                linewidth=2.6 if is_ours else 1.3,
                markersize=4.5,
                zorder=3 if is_ours else 2,
                **({"color": "0.5"} if name == "limit" else look(name)),
            )
        ax.set(xscale="log", yscale="log")
    axes[0].set(xlabel="classes (8 million elements)", ylabel="nanoseconds per element")
    axes[1].set(xlabel="rows of 100 classes")
    axes[1].tick_params(labelleft=True)
    axes[1].set_ylabel("nanoseconds per element")
    handles = axes[1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=6)
    return figure
