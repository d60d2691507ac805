"""Drive a whole comparison: one worker process a thread count, cell after cell, then the report.

The workers take turns within each cell, so that the speed-up from one to two threads is between
two measurements seconds apart.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.cells import CELLS, CLASS_SWEEP, ROW_SWEEP, SWEEP_SUBJECTS
from bench.measure import measure, missing_packages
from bench.subjects import OURS
from bench.threads import hold_to
from bench.timing import FULL, QUICK, SWEEP


def _worker(threads: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=hold_to,
        initargs=(threads,),
    )


def run(
    *,
    threads: Sequence[int],
    quick: bool,
    only: str,
    names: Sequence[str],
    sweeps: bool,
    output: Path | None,
) -> int:
    """Measure, print, write; 1 if fastce itself was left out of a cell, else 0."""
    started = time.perf_counter()
    facts = machine.facts(list(threads))
    cells = [cell for cell in CELLS if fnmatch(cell.group, only)]
    if not cells:
        raise SystemExit(f"no cell matches {only!r}: " + ", ".join(cell.group for cell in CELLS))
    budget = QUICK if quick else FULL
    workers = {n: _worker(n) for n in threads}
    first = threads[0]
    try:
        missing = workers[first].submit(missing_packages).result()
        measured = []
        for number, cell in enumerate(cells, 1):
            _progress(started, f"cell {number} of {len(cells)}: {cell.group}")
            for n in threads:
                # Errors do not depend on the number of threads: weighed once.
                measured.append(
                    workers[n].submit(measure, cell, n, budget, names, n == first).result()
                )
        swept: dict[str, Any] = {}
        for name, sweep in (("classes", CLASS_SWEEP), ("rows", ROW_SWEEP)) if sweeps else ():
            swept[name] = []
            for cell in sweep:
                _progress(started, f"sweep over {name}: {cell.group}")
                point = workers[first].submit(measure, cell, first, SWEEP, SWEEP_SUBJECTS, False)
                shape = {"rows": cell.elements // cell.classes, "classes": cell.classes}
                swept[name].append({**shape, **point.result()})
    finally:
        for worker in workers.values():
            worker.shutdown()
    results = {
        "machine": facts,
        "missing": missing,
        "cells": measured,
        "sweeps": swept,
    }
    print(report.full(results))
    if output is not None:
        write(results, output)
    _progress(started, "done")
    left_out = any(name in OURS for m in measured for name in m["left_out"])
    return int(left_out or "fastce" in missing)


def write(results: dict[str, Any], output: Path) -> None:
    """table.md, summary.md, results.json, and the plots if matplotlib is installed."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (output / "table.md").write_text(report.full(results), encoding="utf-8")
    (output / "summary.md").write_text(report.summary(results), encoding="utf-8")
    try:
        from bench import plots
    except ImportError as error:
        print(f"no plots: {error}", file=sys.stderr)
        return
    for path in plots.draw(results, output):
        print(f"wrote {path}", file=sys.stderr)


def _progress(started: float, text: str) -> None:
    print(f"[{time.perf_counter() - started:5.0f} s] {text}", file=sys.stderr, flush=True)
