from bench_results import RESULTS
from matplotlib import pyplot as plt


def draw():
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2))
    for ax, sweep in zip(axes, ["classes", "rows"], strict=True):
        measured = RESULTS["sweeps"][sweep]
        names = dict.fromkeys(name for cell in measured for name in cell["seconds"])
        peers = [name for name in names if name not in ("limit", "fastce", "fastce, new array")]
        for name in ["fastce", *peers, "limit"]:
            points = [
                (cell[sweep], cell["seconds"][name]["minimum"] / cell["elements"] * 1e9)
                for cell in measured
                if name in cell["seconds"]
            ]
            is_ours = name == "fastce"
            ax.plot(
                *zip(*points, strict=True),
                label="copy" if name == "limit" else name,
                color="0.5" if name == "limit" else None,
                linestyle="--" if name == "limit" else "-",
                linewidth=2.6 if is_ours else 1.3,
                zorder=3 if is_ours else 2,
            )
        ax.set(xscale="log", yscale="log")
    axes[0].set(xlabel="classes, of 8 million elements", ylabel="nanoseconds an element")
    axes[1].set(xlabel="rows of 100 classes")
    axes[1].legend(fontsize=9.5, ncols=2)
    return figure
