"""The cost of a call through the C interface and through the Python interface: microseconds.

Run: python -m bench.c_interface. It compiles bench/c_calls.pyx, calls each function in a loop, with
the gradient written to an existing array, and takes the fastest of interleaved rounds.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

import fastce
from bench.timing import FULL, least

SHAPES = [(1, 10), (64, 10), (64, 100), (1024, 10)]
CALLS = 100  # in a run, so that the loop over runs costs next to nothing


def build(directory: Path) -> ModuleType:
    """Compile the loops and import them."""
    source = shutil.copy2(Path(__file__).with_name("c_calls.pyx"), directory)
    package = str(Path(fastce.__file__).parents[1])  # Cython finds its declarations there
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "--quiet", "--inplace", source]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": package}, check=True)
    sys.path.insert(0, str(directory))
    return importlib.import_module("c_calls")


def in_python(loss: Callable, z, y, grad, calls: int) -> float:
    for _ in range(calls):
        value, _ = loss(z, y, out=grad)
    return value


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        c_calls = build(Path(directory))
    rng = np.random.default_rng(0)
    fastce.set_num_threads(1)
    print("| function, float32 | shape | C interface | Python interface |")
    print("|---|---|---|---|")
    for name, loss in [
        ("softmax_cross_entropy", fastce.SoftmaxCrossEntropy().value_and_grad),
        ("bce_with_logits", fastce.BCEWithLogits().value_and_grad),
    ]:
        for shape in SHAPES:
            z = rng.normal(scale=3, size=shape).astype(np.float32)
            if name == "softmax_cross_entropy":
                y = rng.integers(shape[1], size=shape[0])
            else:
                y = rng.integers(2, size=shape).astype(np.float32)
            grads = np.empty_like(z), np.empty_like(z)
            runs = {
                "C": partial(getattr(c_calls, name), z, y, grads[0], CALLS),
                "Python": partial(in_python, loss, z, y, grads[1], CALLS),
            }
            assert runs["C"]() / y.size == runs["Python"]()
            assert (grads[0] == grads[1]).all()
            in_c, python = (1e6 / CALLS * seconds for seconds in least(runs, FULL).values())
            print(f"| {name} | {shape[0]} × {shape[1]} | {in_c:.2f} | {python:.2f} |")


if __name__ == "__main__":
    main()
