from itertools import cycle

from bench_results import RESULTS
from matplotlib import pyplot as plt


def draw():
    threads = min(RESULTS["machine"]["threads"])
    measured = [cell for cell in RESULTS["cells"] if cell["threads"] == threads]
    names = dict.fromkeys(name for cell in measured for name in cell["seconds"])
    others = [name for name in names if name not in ("limit", "fastce", "fastce, new array")]

    # More peers than the style has colours: the marker tells those of one colour apart.
    markers = cycle("osv^P<>X")
    figure, ax = plt.subplots(figsize=(9.5, 0.36 * len(measured) + 1.4))
    for name in ["fastce", *others]:
        points = [
            (cell["seconds"][name]["minimum"] / cell["seconds"]["limit"]["minimum"], position)
            for position, cell in enumerate(measured)
            if name in cell["seconds"] and "limit" in cell["seconds"]
        ]
        is_ours = name == "fastce"
        ax.scatter(
            *zip(*points, strict=True),
            label=name,
            s=80 if is_ours else 26,
            marker="D" if is_ours else next(markers),
            zorder=3 if is_ours else 2,
        )
    ax.axvline(1, color="0.5", linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel=f"times the memory limit, {threads} thread")
    ax.set_yticks(range(len(measured)), [cell["cell"] for cell in measured], fontsize=9)
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=10)
    return figure
