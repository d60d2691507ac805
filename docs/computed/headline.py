"""Speed and accuracy on the front page: a few cells of the benchmark's last full run."""

from bench_results import RESULTS

from bench.readme import ROWS
from bench.report import FASTCE, digits, fastest_peer, minimum
from bench.report import table as markdown
from bench.subjects import LIMIT, OURS

# The cells of the README, with another first one, whose time is per element like the others.
SHOWN = {"softmax CE, 65536×10": "softmax_cross_entropy-65536x10-float32"}
SHOWN |= {label: cell for label, cell in ROWS.items() if label != "softmax CE, 64×10"}


def table():
    cells = {m["cell"]: m for m in RESULTS["cells"] if m["threads"] == 1}
    rows = []
    for label, cell in SHOWN.items():
        measured = cells[cell]
        limit, ours = minimum(measured, LIMIT), minimum(measured, FASTCE)
        peer, theirs = fastest_peer(measured)
        errors = {name: e["confident"]["value"] for name, e in measured["errors"].items()}
        best = min(error for name, error in errors.items() if name not in (LIMIT, *OURS))
        times = [digits(ours / limit), f"{digits(theirs / limit)} ({peer})"]
        rows.append([label, *times, f"{errors[FASTCE]:.1e}", f"{best:.1e}"])
    header = ["loss and gradient, float32", "fastce, copies", "fastest peer, copies"]
    return markdown([*header, "error of fastce", "smallest error of a peer"], rows, 1)
