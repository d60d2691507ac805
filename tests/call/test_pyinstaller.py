"""A program that PyInstaller has made has every variant of the kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, printed_by

from fastce._call import variants

pytest.importorskip("PyInstaller")

PROGRAM = """
import numpy as np
import fastce

fastce.set_num_threads(2)
logits = np.sin(np.arange(600_000, dtype=np.float32)).reshape(60_000, 10)
target = np.arange(60_000) % 10
loss, grad = fastce.SoftmaxCrossEntropy(reduction="none").value_and_grad(logits, target)
print(fastce._call.variants.selected, float(loss.sum()).hex(), float(grad[:, 0].sum()).hex())
print(*fastce._call.variants.available())
"""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A folder with the program, made from the package in this tree, and a log of its contents."""
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    # An editable installation may be of another tree: what PYTHONPATH names comes first.
    command = (sys.executable, "-m", "PyInstaller", f"--paths={ROOT}", "program.py")
    printed_by(*command, directory=folder, PYINSTALLER_CONFIG_DIR=str(folder / "cache"))
    contents = (folder / "build/program/PYZ-00.toc").read_text(encoding="utf-8")
    assert str(Path(ROOT, "fastce", "_call", "variants.py")) in contents
    return folder


def run(folder, variant):
    environment = {name: x for name, x in os.environ.items() if not name.startswith("PYTHON")}
    environment.pop("FASTCE_ISA", None)
    if variant:
        environment["FASTCE_ISA"] = variant
    program = folder / "dist/program/program"
    done = subprocess.run(
        [program], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    return first.split(), second.split()


@pytest.mark.parametrize("variant", [None, *variants.available()])
def test_a_frozen_program_computes_the_same_bits(frozen, variant):
    (selected, *sums), available = run(frozen, variant)
    assert tuple(available) == variants.available()
    assert selected == (variant or variants.available()[0])
    names = {}
    with variants.using(selected):
        exec(PROGRAM.partition("print")[0].replace("fastce.set_num_threads(2)", ""), names)
    assert sums == [float(names["loss"].sum()).hex(), float(names["grad"][:, 0].sum()).hex()]
