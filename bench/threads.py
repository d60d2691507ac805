"""Hold a process to a number of threads. Imports nothing that starts a thread of its own."""

from __future__ import annotations

import os

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
