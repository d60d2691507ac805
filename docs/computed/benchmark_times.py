"""Every subject's time in every cell on one thread, and on the most."""

from bench_results import RESULTS

from bench.report import minimum, time_of
from bench.report import table as markdown


def table():
    parts = []
    for threads in RESULTS["machine"]["threads"]:
        cells = [m for m in RESULTS["cells"] if m["threads"] == threads]
        names = list(dict.fromkeys(name for m in cells for name in m["seconds"]))
        rows = []
        for m in cells:
            times = {name: minimum(m, name) for name in names}
            shown = ["–" if t is None else time_of(m, t) for t in times.values()]
            rows.append([m["cell"].replace("-", " "), *shown])
        parts += [f"**{threads} thread{'s' * (threads > 1)}**", ""]
        parts += [markdown(["cell", *names], rows, 1), ""]
    return "\n".join(parts)
