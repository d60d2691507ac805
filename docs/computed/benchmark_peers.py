"""Each peer's time over fastce's: in how many cells it was measured, and how far they spread."""

from statistics import median

from bench_results import RESULTS

from bench.report import FASTCE, digits, minimum
from bench.report import table as markdown
from bench.subjects import LIMIT, OURS


def table():
    rows = []
    names = dict.fromkeys(name for cell in RESULTS["cells"] for name in cell["seconds"])
    for name in names:
        if name == LIMIT or name in OURS:
            continue
        row = [name]
        for threads in RESULTS["machine"]["threads"]:
            cells = [m for m in RESULTS["cells"] if m["threads"] == threads]
            ratios = [
                minimum(m, name) / minimum(m, FASTCE) for m in cells if minimum(m, name) is not None
            ]
            spread = [digits(value) for value in (min(ratios), median(ratios), max(ratios))]
            row += [str(len(ratios)), *spread]
        rows.append(row)
    header = ["peer"]
    for threads in RESULTS["machine"]["threads"]:
        unit = f"{threads} thread{'s' * (threads > 1)}"
        header += [f"cells, {unit}", "smallest", "median", "largest"]
    return markdown(header, rows, 1)
