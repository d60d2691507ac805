"""Speed and accuracy on the front page: a few cells of the benchmark's last full run."""

from bench_results import RESULTS

from bench.readme import ROWS
from bench.report import FASTCE, digits, fastest_peer, minimum
from bench.report import table as markdown
from bench.subjects import LIMIT, OURS

SHOWN = ["65536×10", "8192×1000", "1024×32000", "BCE, 4 million", "sigmoid focal, 4 million"]


def table():
    cells = {m["cell"]: m for m in RESULTS["cells"] if m["threads"] == 1}
    rows = []
    for label in SHOWN:
        measured = cells[ROWS[label]]
        limit, ours = minimum(measured, LIMIT), minimum(measured, FASTCE)
        peer, theirs = fastest_peer(measured)
        errors = {name: e["confident"]["value"] for name, e in measured["errors"].items()}
        best = min(error for name, error in errors.items() if name not in (LIMIT, *OURS))
        shape = label if "," in label else f"softmax CE, {label}"
        times = [digits(ours / limit), f"{digits(theirs / limit)} ({peer})"]
        rows.append([shape, *times, f"{errors[FASTCE]:.1e}", f"{best:.1e}"])
    header = ["loss and gradient, float32", "fastce, copies", "fastest peer, copies"]
    return markdown([*header, "error of fastce", "smallest error of a peer"], rows, 1)
