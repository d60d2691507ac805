from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import fastce

CLASSES = 100


def rows_of_block():
    """Halve the number of rows until they fit, as the kernel does."""
    bounds = fastce._core.thresholds()
    rows = bounds["block rows"]
    while rows > bounds["least rows"] and rows * CLASSES * 4 > bounds["block bytes"]:
        rows //= 2
    return rows


def strip(ax, x, y, color, highlighted, label):
    """An array in memory, in blocks of rows: one is on its way, and the next is prefetched."""
    for block in range(7):
        alpha = {highlighted: 0.95, highlighted - 1: 0.35}.get(block, 0.12)
        ax.add_patch(Rectangle((x, y + 0.62 * block), 1.5, 0.56, color=color, alpha=alpha))
    ax.text(x + 0.75, y + 4.55, label, ha="center", va="bottom")


def arrow(ax, start, end, ink, **style):
    style |= {"arrowstyle": "-|>", "mutation_scale": 13, "color": ink}
    ax.add_patch(FancyArrowPatch(start, end, **style))


def draw():
    rows = rows_of_block()
    ink, colors = plt.rcParams["text.color"], plt.rcParams["axes.prop_cycle"].by_key()["color"]
    figure, ax = plt.subplots(figsize=(9.5, 4.6))
    ax.set(xlim=(-0.2, 13.2), ylim=(-0.4, 5.5))
    ax.axis("off")

    strip(ax, 0, 0.2, colors[0], 3, "logits\nin memory")
    strip(ax, 11.4, 0.2, colors[1], 3, "gradient\nin memory")
    frame = {"boxstyle": "round,pad=0.1", "fill": False, "edgecolor": ink, "linewidth": 1}
    ax.add_patch(FancyBboxPatch((2.75, 0.45), 7.4, 4.0, linestyle="--", **frame))
    ax.text(6.45, 4.68, f"first-level cache: one block of {rows} rows x {CLASSES} classes, "
            f"{rows * CLASSES * 4 / 1024:.1f} KB", ha="center", va="bottom")

    def matrix(x, y, color, pivots):
        for row in range(5):
            for column in range(8):
                is_pivot = column == (3, 6, 0, 5, 2)[row]
                alpha = 0.1 if is_pivot and pivots else 0.75
                cell = (x + 0.24 * column, y + 0.3 * row)
                ax.add_patch(Rectangle(cell, 0.2, 0.26, color=color, alpha=alpha))

    matrix(3.1, 2.3, colors[2], pivots=True)
    ax.text(4.05, 3.95, "exponentials,\npivots set aside", ha="center", va="bottom", fontsize=10,
            linespacing=1.1)
    for k, name in enumerate(("pivot", "rest", "factor")):
        for row in range(5):
            cell = (6.2 + 0.62 * k, 2.3 + 0.3 * row)
            ax.add_patch(Rectangle(cell, 0.42, 0.26, color=colors[3], alpha=0.75))
        ax.text(6.41 + 0.62 * k, 2.2, name, ha="center", va="top", fontsize=9)
    ax.text(7.03, 3.95, "per row, in float64", ha="center", va="bottom", fontsize=10)
    matrix(8.2, 2.3, colors[1], pivots=False)
    ax.text(9.15, 3.95, "derivatives", ha="center", va="bottom", fontsize=10)

    arrow(ax, (1.55, 2.35), (3.0, 2.85), ink)
    arrow(ax, (5.15, 3.0), (6.1, 3.0), ink)
    arrow(ax, (7.95, 3.0), (8.15, 3.0), ink)
    arrow(ax, (10.15, 2.85), (11.35, 2.35), ink)
    arrow(ax, (4.1, 2.2), (9.1, 2.2), ink, connectionstyle="arc3,rad=0.28")
    ax.text(6.6, 0.85, "3: exponential x factor of its row", ha="center", fontsize=10)
    ax.text(2.1, 2.85, "1: exp", ha="center", fontsize=10)
    ax.text(5.62, 3.12, "2", ha="center", fontsize=10)
    arrow(ax, (1.55, 1.75), (2.6, 1.45), ink, linestyle=":")
    ax.text(2.1, 1.05, "prefetched", ha="center", fontsize=9)
    ax.text(12.15, -0.3, "written once", ha="center", fontsize=9)
    ax.text(0.75, -0.3, "read once", ha="center", fontsize=9)
    return figure
