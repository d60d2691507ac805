"""``python -m bench.cliffs``: the cost of each option, layout and type, relative to the plain call.

The plain call has hard labels (or targets of 0 and 1), arrays in C order, and `out`. The ratio of
each variation to the plain call of the same type and size has a bound (`variations.py`). Those
beyond it are printed, the worst first. Everything runs on one thread.

NumPy and fastce are imported in functions, after `hold_to` has held the process to one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import RESULTS, machine
from bench.threads import hold_to
from bench.timing import FULL, QUICK, Budget, Run, least, prepare

if TYPE_CHECKING:
    from bench.variations import Group

ELEMENTS = 2**19  # of logits: 2 MB of float32
CLASSES = (2, 3, 5, 10, 16, 17, 32, 100, 256, 1000, 1025, 2049, 10_000, 32_769)
QUICK_CLASSES = (2, 10, 100, 1000, 10_000)
SECTIONS = ("softmax", "types", "sigmoid", "small")
OUTPUT = RESULTS / "cliffs.json"

Measured = dict[str, Any]


def ratios(runs: dict[str, Run], plain: str, budget: Budget) -> dict[str, tuple[float, float]]:
    """Return the least seconds of each run, and their ratio to those of the plain one."""
    seconds = least(runs, budget)
    return {name: (own, own / seconds[plain]) for name, own in seconds.items()}


def measure(group: Group, budget: Budget) -> tuple[list[Measured], list[Measured]]:
    """Time the calls of a group in turns; return its cells, and the calls that raise."""
    runs, errors = prepare({variation.name: variation.prepare for variation in group.variations})
    failed = [{"name": f"{group.name}: {name}", "error": error} for name, error in errors.items()]
    plain = group.variations[0].name
    if plain not in runs:
        return [], failed
    found = ratios(runs, plain, budget)
    bounds = {variation.name: variation.bound for variation in group.variations}
    late = {name: run for name, run in runs.items() if found[name][1] > bounds[name]}
    if late:  # a second look: noise passes, a cliff stays
        again = ratios({plain: runs[plain], **late}, plain, budget)
        found |= {name: min(found[name], again[name], key=lambda pair: pair[1]) for name in late}
    cells = [
        {
            "name": f"{group.name}: {name}",
            "nanoseconds_per_element": 1e9 * seconds / group.elements,
            "ratio": ratio,
            "bound": bounds[name],
        }
        for name, (seconds, ratio) in found.items()
    ]
    return cells, failed


def scan(groups: Iterable[Group], budget: Budget) -> Measured:
    """Measure group after group, each before the next one is made."""
    facts = machine.facts([1])  # first, so that the load is that of other programs
    cells, failed = [], []
    for group in groups:
        print(group.name, file=sys.stderr, flush=True)
        of_group, of_failed = measure(group, budget)
        cells += of_group
        failed += of_failed
    return {"machine": facts, "commit": commit(), "cells": cells, "failed": failed}


def commit() -> str:
    """Return what is checked out, with a mark if it has been changed since; empty without git."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def excess(cell: Measured) -> float:
    return float(cell["ratio"] / cell["bound"])


def report(results: Measured) -> str:
    """Return the cells beyond their bound, the worst first, and the calls that raised."""
    late = [cell for cell in sorted(results["cells"], key=excess, reverse=True) if excess(cell) > 1]
    lines = [f"{len(late)} of {len(results['cells'])} cells beyond their bound", ""]
    if late:
        lines += ["| cell | ns per element | times plain | bound | times bound |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {cell['name']} | {cell['nanoseconds_per_element']:.2f} | {cell['ratio']:.2f} "
            f"| {cell['bound']:g} | {excess(cell):.2f} |"
            for cell in late
        ]
    lines += [f"{failed['name']} raised {failed['error']}" for failed in results["failed"]]
    return "\n".join(lines).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cliffs", description=__doc__)
    parser.add_argument("--classes", metavar="K,K", help="default: " + ",".join(map(str, CLASSES)))
    parser.add_argument("--only", choices=SECTIONS, help="a part of the scan")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and class counts")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"where to write JSON (default: {RESULTS.parent.name}/{RESULTS.name}/{OUTPUT.name} "
        f"for a full scan, nowhere for a part)",
    )
    arguments = parser.parse_args()
    partial = arguments.quick or arguments.only or arguments.classes
    classes = QUICK_CLASSES if arguments.quick else CLASSES
    if arguments.classes:
        classes = tuple(map(int, arguments.classes.split(",")))
    hold_to(1)
    from bench.variations import groups

    sections = [arguments.only] if arguments.only else SECTIONS
    results = scan(groups(sections, classes, ELEMENTS), QUICK if arguments.quick else FULL)
    print(report(results))
    output = arguments.output or (None if partial else OUTPUT)
    if output is not None:
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return int(bool(results["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
