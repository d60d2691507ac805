"""Hold a process to a number of threads. Imports nothing that starts a thread of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

POOL_SIZES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "FASTCE_NUM_THREADS",
    "NPROC",  # the pool of XLA
)


def available_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def hold_to(threads: int) -> None:
    """Let this process use ``threads`` CPUs and no more.

    Has to run before NumPy or any peer is imported: pools take their size when they are loaded.
    The affinity is what makes the comparison fair: it binds pools that have no switch as well.
    """
    cpus = available_cpus()
    if threads > len(cpus):
        raise ValueError(f"{threads} threads were asked for, but {len(cpus)} CPUs are available")
    for name in POOL_SIZES:
        os.environ[name] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Compile in this process: idle compiler processes would share the CPUs with what is timed.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus[-threads:])


def measure_on_each(module: str, measure: Callable[[int], None]) -> None:
    """Call ``measure(threads)`` for each number of threads, in a process of its own.

    The numbers are those of the command line, by default one and all processors.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(available_cpus())])
    counts = parser.parse_args().threads
    if len(counts) == 1:
        measure(counts[0])
        return
    for threads in counts:
        command = [sys.executable, "-m", module, "--threads", str(threads)]
        subprocess.run(command, check=True)
