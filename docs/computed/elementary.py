"""The bounds of tests/kernels/test_elementary.py, imported from it instead of copied."""

import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "tests/kernels"))
sys.path.append(str(Path(__file__).parents[2] / "tests/support"))
from test_elementary import WORST_ULP

RANGES = {
    "exp": (
        "$e^x$",
        "from the smallest normal result up to $x = 88$ (float64: 709); 0 or subnormal below",
    ),
    "log1p": ("$\\log(1+x)$", "float32: $0 \\le x \\le 1$; float64: $0 \\le x < 2^{53}$"),
    "log": ("$\\log x$", "normal $x$ up to $2^{127}$ (float64: $2^{1023}$)"),
    "tanh": ("$\\tanh x$", "all"),
}


def table():
    lines = ["| function | range | float32 | float64 |", "|---|---|--:|--:|"]
    for name in dict.fromkeys(name for name, _ in WORST_ULP):
        function, where = RANGES[name]
        worst = [f"{WORST_ULP[name, dtype]} ULP" for dtype in (np.float32, np.float64)]
        lines.append(f"| {function} | {where} | {worst[0]} | {worst[1]} |")
    return "\n".join(lines)
