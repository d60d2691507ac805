"""Results as Markdown: the full table, the summary for the README, what is lost, the speed-up.

``python -m bench.report [FILE]`` prints the report of an earlier run again: of a file that
``pytest bench --benchmark-json FILE`` has written, or of the last full run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median_high
from typing import Any

from bench import RESULTS, machine
from bench.cells import CELLS, Cell
from bench.subjects import LIMIT, OURS

Measured = dict[str, Any]
FASTCE = OURS[0]
KINDS, WHAT = ("normal", "confident"), ("value", "gradient")  # of errors
BY_GROUP = {cell.group: cell for cell in CELLS}

HOW_TO_READ = """\
In every round, each library runs once; a time is the minimum over all rounds. Compare ratios rather
than times. The limit is NumPy's copy (`np.copyto`), product (`np.multiply`) or read (`np.max`) of
the same arrays, always on one thread. The columns "time / limit" and "time / fastest peer" are
ratios of times: below 1 in the second, fastce is faster than every peer. In the summary, the
speedup is the time of the fastest peer divided by that of fastce. Errors are the largest relative
errors of a loss (or of the function's value) and of an element of the gradient, compared with
extended precision. Only results whose true value is a normal number count. Errors are given for
logits with a standard deviation of 3, and for confident, correct predictions with a margin of 10 to
60. An error of 1 means no correct digits. If the gradient is a difference p − q of two terms
(probabilities, label smoothing), its error is relative to the larger term. `fastce, new array` runs
without `out` and is not counted as a peer."""


def table(header: Iterable[str], rows: Iterable[Iterable[str]], numbers_from: int) -> str:
    """A Markdown table, aligned for reading as text too."""
    header, rows = list(header), [list(row) for row in rows]
    # Markdown needs three dashes or more in each column.
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(row: list[str]) -> str:
        cells = (
            text.rjust(width) if column >= numbers_from else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join(cells) + " |"

    rule = (
        "-" * (width - 1) + ":" if column >= numbers_from else "-" * width
        for column, width in enumerate(widths)
    )
    return "\n".join([line(header), "| " + " | ".join(rule) + " |", *map(line, rows)])


def digits(value: float | None) -> str:
    """Three significant digits, no exponent."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def time_of(measured: Measured, seconds: float) -> str:
    if BY_GROUP[measured["cell"]].per_call:
        return f"{digits(seconds * 1e6)} µs"
    return f"{digits(seconds / measured['elements'] * 1e9)} ns"


def error_of(errors: dict[str, Any], kind: str, what: str) -> str:
    value = errors.get(kind, {}).get(what)
    return "-" if value is None else f"{value:.1e}"


def minimum(measured: Measured, name: str) -> float | None:
    times = measured["seconds"].get(name)
    return None if times is None else float(times["minimum"])


def fastest_peer(measured: Measured) -> tuple[str, float] | None:
    """Name and seconds of the fastest subject that is neither ours nor the limit."""
    peers = {n: t["minimum"] for n, t in measured["seconds"].items() if n not in (LIMIT, *OURS)}
    return min(peers.items(), key=lambda item: item[1]) if peers else None


def verdicts(measured: Measured, cell: Cell) -> list[str]:
    """Say what fastce misses in this cell: a peer is faster, or a target is not reached."""
    ours, limit, peer = minimum(measured, FASTCE), minimum(measured, LIMIT), fastest_peer(measured)
    if ours is None:
        return ["fastce left out"]
    found = []
    if peer is not None:
        speedup, bar = peer[1] / ours, cell.lead.get(measured["threads"], 1.0)
        if speedup < 1:
            found.append(f"**slower than {peer[0]}**: {digits(speedup)} times as fast")
        elif speedup < bar:
            found.append(f"{digits(speedup)} times as fast as {peer[0]}, target {bar:g}")
    for name, bar in cell.ahead_of.items():
        theirs = minimum(measured, name)
        if theirs is not None and theirs / ours < bar:
            found.append(f"{digits(theirs / ours)} times as fast as {name}, target {bar:g}")
    if cell.microseconds is not None and ours > cell.microseconds * 1e-6:
        found.append(f"{digits(ours * 1e6)} µs per call, target {cell.microseconds:g}")
    bar_over_limit = cell.over_limit.get(measured["threads"])
    if limit is not None and bar_over_limit is not None and ours / limit > bar_over_limit:
        found.append(f"{digits(ours / limit)} times the limit, target {bar_over_limit:g}")
    return found


def full_table(results: Measured) -> str:
    errors = {m["cell"]: m["errors"] for m in results["cells"] if m["errors"]}
    rows = []
    for m in results["cells"]:
        limit, peer = minimum(m, LIMIT), fastest_peer(m)
        label = [m["cell"], str(m["threads"])]
        for name, times in sorted(m["seconds"].items(), key=lambda item: item[1]["minimum"]):
            seconds, error = times["minimum"], errors.get(m["cell"], {}).get(name, {})
            flag = "; ".join(verdicts(m, BY_GROUP[m["cell"]])) if name == FASTCE else ""
            rows.append(
                [
                    *label,
                    f"**{name}**" if name == FASTCE else name,
                    time_of(m, seconds),
                    digits(seconds / limit) if limit else "-",
                    digits(seconds / peer[1]) if peer and name != LIMIT else "-",
                    *(error_of(error, kind, what) for kind in KINDS for what in WHAT),
                    flag,
                ]
            )
            label = ["", ""]
    header = ["cell", "threads", "subject", "time", "time / limit", "time / fastest peer"]
    header += ["loss error", "gradient error", "confident: loss", "confident: gradient", "missed"]
    return table(header, rows, 3)


def summary_table(results: Measured) -> str:
    rows = []
    for m in results["cells"]:
        cell = BY_GROUP[m["cell"]]
        ours, limit, peer = minimum(m, FASTCE), minimum(m, LIMIT), fastest_peer(m)
        misses = verdicts(m, cell)
        rows.append(
            [
                m["cell"],
                str(m["threads"]),
                time_of(m, limit) if limit else "-",
                time_of(m, ours) if ours else "-",
                digits(ours / limit) if ours and limit else "-",
                f"{peer[0]}, {time_of(m, peer[1])}" if peer else "-",
                digits(peer[1] / ours) if peer and ours else "-",
                "missed" if misses else "",
            ]
        )
    header = ["cell", "threads", "limit", "fastce", "fastce / limit", "fastest peer", "speedup"]
    return table([*header, "target"], rows, 2)


def missed(results: Measured) -> str:
    lines = [
        f"- {m['cell']}, {m['threads']} thread{'s' * (m['threads'] > 1)}: {verdict}"
        for m in results["cells"]
        for verdict in verdicts(m, BY_GROUP[m["cell"]])
    ]
    return "\n".join(lines) or "None: no peer is faster in any cell, and every target is met."


def left_out(results: Measured) -> str:
    """Which subjects are missing from which cells, grouped by reason."""
    lines = [f"- {name}: {reason}" for name, reason in results["missing"].items()]
    cells: dict[tuple[str, str], list[str]] = {}
    for m in results["cells"]:
        for item in m["left_out"].items():
            cells.setdefault(item, []).append(m["cell"])
    for (name, reason), where in cells.items():
        lines.append(f"- {name}: {reason} ({', '.join(dict.fromkeys(where))})")
    return "\n".join(lines) or "None."


def speed_up_table(results: Measured) -> str:
    """Time on the fewest threads divided by time on the most, per subject."""
    fewest, most = min(results["machine"]["threads"]), max(results["machine"]["threads"])
    by_cell: dict[str, dict[int, Measured]] = {}
    for m in results["cells"]:
        by_cell.setdefault(m["cell"], {})[m["threads"]] = m
    names = list(dict.fromkeys(n for m in results["cells"] for n in m["seconds"] if n != LIMIT))
    rows = []
    for group, by_threads in by_cell.items():
        row = [group]
        for name in names:
            before, after = minimum(by_threads[fewest], name), minimum(by_threads[most], name)
            row.append(digits(before / after) if before and after else "-")
        rows.append(row)
    return table(["cell", *names], rows, 1)


def flatness(results: Measured) -> str:
    """How much the cost per element varies over the sweeps."""
    lines = []
    for name, lowest, words in (
        ("classes", 1000, "from 1,024 to 262,144 classes"),
        ("rows", 0, "from 10³ to 10⁶ rows of 100 classes"),
    ):
        for subject in (FASTCE, LIMIT):
            costs = [
                seconds / m["elements"]
                for m in results["sweeps"].get(name, [])
                if m[name] >= lowest and (seconds := minimum(m, subject)) is not None
            ]
            if costs:
                varies = digits(max(costs) / min(costs))
                lines.append(
                    f"- {subject}, {words}: the cost per element varies by a factor of {varies}"
                )
    return "\n".join(lines)


def spread(results: Measured) -> str:
    """How noisy the run was."""
    ratios = [t["median"] / t["minimum"] for m in results["cells"] for t in m["seconds"].values()]
    return (
        "The median time of a library's rounds is typically "
        f"{median_high(ratios):.2f} times its minimum, and {max(ratios):.2f} times in the worst "
        "case."
    )


def summary(results: Measured) -> str:
    return "\n\n".join([machine.as_markdown(results["machine"]), summary_table(results)]) + "\n"


def full(results: Measured) -> str:
    facts = results["machine"]
    parts = ["# Speed and accuracy compared with peers and the memory limit"]
    parts += [machine.as_markdown(facts), HOW_TO_READ + " " + spread(results)]
    parts += [full_table(results), "## Summary", summary_table(results)]
    if len(facts["threads"]) > 1:
        few, many = min(facts["threads"]), max(facts["threads"])
        parts += [f"## Speed-up from {few} to {many} threads", speed_up_table(results)]
    if results["sweeps"]:
        parts += ["## Cost by number of classes and rows", flatness(results)]
    parts += ["## Targets missed", missed(results), "## Left out", left_out(results)]
    return "\n\n".join(parts) + "\n"


def read(file: Path) -> Measured:
    """Read pytest-benchmark's JSON, or the file that ``write`` made from it."""
    data: Measured = json.loads(file.read_text(encoding="utf-8"))
    if "benchmarks" not in data:
        return data
    found: dict[tuple[str, int, str | None], Measured] = {}

    def entry(place: Measured) -> Measured:
        key = place["cell"], place["threads"], place["sweep"]
        empty: Measured = {"seconds": {}, "errors": {}, "left_out": {}}
        return found.setdefault(key, {"cell": key[0], "threads": key[1], **empty})

    for benchmark in data["benchmarks"]:
        info, stats = benchmark["extra_info"], benchmark["stats"]
        measured, subject = entry(info), info["subject"]
        measured["elements"] = info["elements"]
        if info["sweep"]:
            measured |= {"classes": info["classes"], "rows": info["elements"] // info["classes"]}
        times = {"minimum": stats["min"], "median": stats["median"], "rounds": stats["rounds"]}
        measured["seconds"][subject] = times
        if info["errors"]:
            measured["errors"][subject] = info["errors"]
    for item in data["left_out"]:
        entry(item)["left_out"][item["subject"]] = item["reason"]
    sweeps: dict[str, list[Measured]] = {}
    for (_, _, sweep), measured in found.items():
        if sweep:
            sweeps.setdefault(sweep, []).append(measured)
    return {
        "machine": data["machine_info"]["bench"],
        "missing": data["missing"],
        "cells": [measured for (_, _, sweep), measured in found.items() if not sweep],
        "sweeps": sweeps,
    }


def write(results: Measured, output: Path) -> None:
    """Write table.md, summary.md and results.json."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (output / "table.md").write_text(full(results), encoding="utf-8")
    (output / "summary.md").write_text(summary(results), encoding="utf-8")


if __name__ == "__main__":
    print(full(read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "results.json")))
