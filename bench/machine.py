"""The machine and the versions with which figures were measured; every table states them."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from typing import Any

PACKAGES = ("fastce", "numpy", "scipy", "scikit-learn", "numba", "torch", "jax", "ml_dtypes")


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def facts(threads: list[int]) -> dict[str, Any]:
    """Return the machine, the versions of packages, and the current load.

    Call it before measuring, so that the load is only that of other programs.
    """
    # Importing fastce imports NumPy, and `hold_to` of bench.threads has to run before that.
    from fastce._call import variants

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "instruction_set": variants.selected,
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def as_markdown(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    threads = " and ".join(map(str, facts["threads"]))
    return (
        f"{facts['processor']}, {facts['cpus']} CPUs, {facts['architecture']}, "
        f"{facts['system']}. fastce's instruction set: {facts['instruction_set']}. "
        f"Threads: {threads}, the same for every library. Python {facts['python']}, {versions}. "
        f"Load average before the run: {facts['load']}. {facts['date']}."
    )
