"""Compare the cost model of a split with steps measured on 1, 2 and 4 local MPI processes.

Computing is measured in processor time, which other programs hardly affect, and exchange in
wall-clock time. The parameters of the model come from the run on one process.

Run: python -m bench.processes [--rows 528] [--classes 32000]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastce
from bench.scale import problem, steps_of_classes
from bench.timing import Budget, Run, call_seconds, least

PROCESSES = (1, 2, 4)
ROUNDS = 15
LOSS = fastce.SoftmaxCrossEntropy(reduction="sum")


# On each process ----------------------------------------------------------------------------------


def share(count: int, comm: Any) -> slice:
    return slice(count * comm.rank // comm.size, count * (comm.rank + 1) // comm.size)


def exchange_seconds(comm: Any, exchange: Run) -> float:
    """Return the least time of exchanges that all processes begin together."""
    seconds = []
    for _ in range(ROUNDS):
        comm.Barrier()
        seconds.append(call_seconds(exchange, 1, time.perf_counter))
    return min(seconds)


def on_each_process(rows: int, classes: int) -> None:
    """Run the steps of both splits; the first process prints the slowest one's times."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    figures: dict[str, Any] = {}
    for split in ("rows", "classes"):
        mine = share(rows if split == "rows" else classes, comm)
        count = mine.stop - mine.start
        logits, _ = problem(*((count, classes) if split == "rows" else (rows, count)), comm.rank)
        y = np.random.default_rng(1).integers(classes, size=len(logits))
        out = np.empty_like(logits)
        if split == "rows":
            computed = {"unsplit": partial(LOSS.value_and_grad, logits, y, out=out)}
            sent = np.array([computed["unsplit"]()[0]])
            exchange = partial(comm.allreduce, sent)
        else:

            def gather(summary: Any) -> Any:
                received = np.empty((comm.size, *summary.shape))
                comm.Allgather(summary, received)
                return received

            computed, sent = steps_of_classes(LOSS, logits, y, out, mine.start, classes, gather)
            exchange = partial(comm.Allgather, sent, gather(sent))
        times = least(computed, Budget(0, ROUNDS), time.process_time)
        times["exchange"] = exchange_seconds(comm, exchange)
        gathered = comm.gather(times)
        if comm.rank == 0:
            figures[split] = {part: max(t[part] for t in gathered) for part in times}
            figures[split]["sent"] = sent.nbytes
    if comm.rank == 0:
        print(json.dumps(figures))


# The table ----------------------------------------------------------------------------------------


def run(processes: int, rows: int, classes: int) -> Any:
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit("there is no mpiexec: pip install mpich mpi4py")
    command = [mpiexec, "-n", str(processes), sys.executable, "-m", "bench.processes", "--process"]
    command += ["--rows", str(rows), "--classes", str(classes)]
    one_thread = {"FASTCE_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        command, env=os.environ | one_thread, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(finished.stdout)


def table(rows: int, classes: int) -> None:
    computing = {"rows": ["unsplit"], "classes": ["summarise", "merge", "finish", "gradient"]}
    runs = {processes: run(processes, rows, classes) for processes in PROCESSES}
    alone = runs[1]["rows"] | runs[1]["classes"]
    elements = rows * classes
    print(f"{rows} rows of {classes} float32 classes. From one process:")
    for part in ("unsplit", "summarise", "gradient"):
        print(f"  {part}: {alone[part] / elements * 1e9:.2f} ns per element")
    for part in ("one merge", "finish"):
        print(f"  {part}: {alone[part] / rows * 1e6:.2f} µs per row")
    print("| split by | processes | computing | model | ratio | exchange | sent, received |")
    print("|---|---|---|---|---|---|---|")
    for split, parts in computing.items():
        for processes, figures in runs.items():
            measured = sum(figures[split][part] for part in parts)
            model = alone["unsplit"] / processes
            if split == "classes":
                model = (alone["summarise"] + alone["gradient"]) / processes + alone["finish"]
                model += (processes - 1) * alone["one merge"]
            sent = figures[split]["sent"]
            print(
                f"| {split} | {processes} | {measured * 1e3:.2f} ms | {model * 1e3:.2f} ms"
                f" | {measured / model:.2f} | {figures[split]['exchange'] * 1e6:.0f} µs"
                f" | {sent} B, {sent * processes} B |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=528)
    parser.add_argument("--classes", type=int, default=32_000)
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    (on_each_process if options.process else table)(options.rows, options.classes)


if __name__ == "__main__":
    main()
