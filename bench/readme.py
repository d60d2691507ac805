"""Writes the table of the last full run into the README: ``python -m bench.readme``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import RESULTS
from bench.report import FASTCE, digits, fastest_peer, minimum, read, table, time_of
from bench.subjects import LIMIT, OURS

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- bench:start -->\n", "<!-- bench:end -->\n"

# The label of each row, and the cell that it shows.
ROWS = {
    "softmax CE, 64×10": "softmax_cross_entropy-64x10-float32",
    "softmax CE, 8192×1000": "softmax_cross_entropy-8192x1000-float32",
    "softmax CE, 1024×32000": "softmax_cross_entropy-1024x32000-float32",
    "BCE, 4 million": "bce_with_logits-4194304-float32",
    "sigmoid focal, 4 million": "sigmoid_focal_loss-4194304-float32-gamma=2",
}

INSTRUCTION_SETS = {"avx2": "AVX2", "avx512": "AVX-512"}

BLOCK = """\
{table}

Float32, one thread of an {processor} with {instruction_set}, {date}. Times are per call for 64×10,
and per element otherwise. The copy is `np.copyto`; in the last two rows it is a product of two
arrays. The speedup is relative to the fastest peer.
[bench/results/summary.md](bench/results/summary.md) lists all cases, including the ones that fastce
loses. For confident, correct predictions, the largest relative error of softmax cross-entropy is
{ours:.1e} with fastce and {theirs:.2g} with the best peer{meaning}.
"""


def block(results: dict[str, Any]) -> str:
    """Return the text between the README's markers."""
    cells = {m["cell"]: m for m in results["cells"] if m["threads"] == 1}
    rows, ours, theirs = [], [], []
    for label, name in ROWS.items():
        measured = cells[name]
        limit, time = minimum(measured, LIMIT), minimum(measured, FASTCE)
        peer = fastest_peer(measured)
        if limit is None or time is None or peer is None:
            raise ValueError(f"{name}: limit, fastce or every peer was left out")
        speedup, best = digits(peer[1] / time), f"{peer[0]}, {time_of(measured, peer[1])}"
        rows.append([label, time_of(measured, limit), time_of(measured, time), best, speedup])
    for name, measured in cells.items():
        if name.startswith("softmax_cross_entropy") and name.endswith("float32"):
            errors = {n: e["confident"]["value"] for n, e in measured["errors"].items()}
            ours.append(errors[FASTCE])
            theirs += [error for n, error in errors.items() if n not in (LIMIT, *OURS)]
    header = ["loss and gradient", "copy", "fastce", "fastest peer", "speedup"]
    machine = results["machine"]
    return BLOCK.format(
        processor=machine["processor"],
        instruction_set=INSTRUCTION_SETS.get(machine["instruction_set"], "baseline kernels"),
        date=machine["date"],
        table=table(header, rows, 1),
        ours=max(ours),
        theirs=min(theirs),
        meaning=". An error of 1 means no correct digits" if min(theirs) >= 1 else "",
    )


def main() -> None:
    results = read(RESULTS / "results.json")
    before, rest = README.read_text("utf-8").split(START)
    after = rest.split(END)[1]
    README.write_text(before + START + block(results) + END + after, "utf-8")


if __name__ == "__main__":
    main()
