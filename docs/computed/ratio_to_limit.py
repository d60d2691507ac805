from bench_results import LOOKS, RESULTS, look
from matplotlib import pyplot as plt


def draw():
    threads = min(RESULTS["machine"]["threads"])
    measured = [cell for cell in RESULTS["cells"] if cell["threads"] == threads]
    names = {name for cell in measured for name in cell["seconds"]}
    figure, ax = plt.subplots(figsize=(9.5, 0.36 * len(measured) + 1.4))
    for name in [name for name in LOOKS if name in names]:
        points = [
            (cell["seconds"][name]["minimum"] / cell["seconds"]["limit"]["minimum"], position)
            for position, cell in enumerate(measured)
            if name in cell["seconds"] and "limit" in cell["seconds"]
        ]
        is_ours = name == "fastce"
        ax.scatter(
            *zip(*points, strict=True),
            label=name,
            s=80 if is_ours else 34,
            zorder=3 if is_ours else 2,
            **look(name),
        )
    ax.axvline(1, color="0.5", linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel=f"time relative to the memory limit, {threads} thread")
    ax.set_yticks(range(len(measured)), [cell["cell"].replace("-float32", "") for cell in measured])
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
