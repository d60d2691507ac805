"""What the last full run says, in sentences: every number is computed from its results."""

from statistics import median

from bench_results import RESULTS

from bench.report import FASTCE, digits, fastest_peer, minimum
from bench.subjects import LIMIT, OURS


def names(cells):
    return ", ".join(f"`{cell['cell']}`" for cell in cells)


def table():
    machine = RESULTS["machine"]
    peers = {name for cell in RESULTS["cells"] for name in cell["seconds"]} - {LIMIT, *OURS}
    lines = [
        f"The run of {machine['date']} has {len(RESULTS['cells'])} cells. Each of them is one "
        "operation on one shape, with one number of threads. "
        f"{len(peers)} peers took part: {', '.join(sorted(peers))}.",
        "",
    ]
    for threads in machine["threads"]:
        cells = [m for m in RESULTS["cells"] if m["threads"] == threads]
        leads = {m["cell"]: fastest_peer(m)[1] / minimum(m, FASTCE) for m in cells}
        over = [minimum(m, FASTCE) / minimum(m, LIMIT) for m in cells if minimum(m, LIMIT)]
        behind = [m for m in cells if leads[m["cell"]] < 1]
        least, most = min(leads, key=leads.get), max(leads, key=leads.get)
        lines.append(
            f"- **{threads} thread{'s' * (threads > 1)}.** fastce is the fastest in "
            f"{len(cells) - len(behind)} of {len(cells)} cells"
            + (f", and slower than a peer in {names(behind)}. " if behind else ". ")
            + "The median of its speedup relative to the fastest peer is "
            f"{digits(median(leads.values()))}. The smallest is {digits(leads[least])}, in "
            f"`{least}`, and the largest {digits(leads[most])}, in `{most}`. The time of fastce is "
            f"between {digits(min(over))} and {digits(max(over))} times the memory limit; the "
            f"median is {digits(median(over))}."
        )
    return "\n".join(lines)
