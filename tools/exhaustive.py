"""Measure exp, log1p, log and tanh of functions.hpp on every float32 in their ranges.

    python -m tools.exhaustive                  # all of them, and write bench/results/exhaustive.md
    python -m tools.exhaustive --only log1p     # one of them, without writing a file

Each variant of the kernels that this machine runs is compared with NumPy's function in float64,
whose own error is about 1e-9 ULP of float32. If the truth is a normal number, the error is
measured in ULP of the truth; if it is subnormal, a result may also be 0. This takes about twenty
minutes, so it is not part of the test suite; its last result is in the checkout.
"""

import argparse
import datetime
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import RESULTS, machine
from fastce._call import variants

OUTPUT = RESULTS / "exhaustive.md"
CHUNK = 2**17  # numbers whose float64 truth and differences stay in the second-level cache
SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)

Array = np.ndarray[Any, Any]


def bits(x: float) -> int:
    """Return the bits of the float32 nearest to `x` as an integer, which grows with |x|."""
    return int(np.float32(x).view(np.uint32))


@dataclass(frozen=True)
class Function:
    """One elementary function, and the ranges of float32 numbers in which it is tested."""

    name: str
    truth: Callable[..., Array]
    ranges: tuple[tuple[float, float], ...]  # ends included; each of one sign
    described: str


FUNCTIONS = [
    Function("exp", np.exp, ((-0.0, -np.inf), (0.0, 88.0)), "[−∞, 88]"),
    Function("exp_in_safe_range", np.exp, ((-0.0, -87.0), (0.0, 40.0)), "[−87, 40]"),
    Function("log1p", np.log1p, ((0.0, 1.0),), "[0, 1]"),
    Function("log", np.log, ((SMALLEST_NORMAL, 2.0**127),), "[2⁻¹²⁶, 2¹²⁷]"),
    Function("tanh", np.tanh, ((0.0, np.inf),), "[0, ∞]"),  # exactly odd, as a test checks
]


@dataclass
class Worst:
    """The largest error so far and where it occurred, and the number of wrong results."""

    ulp: float = 0.0
    at: float = 0.0
    wrong: int = 0
    same_as: set[str] = field(default_factory=set)


def measure(function: Function, cores: dict[str, Any]) -> tuple[dict[str, Worst], int]:
    """Worst error of each variant over the ranges of `function`, and the count of numbers."""
    worst = {name: Worst(same_as=set(cores)) for name in cores}
    count = 0
    for first, last in function.ranges:
        for start in range(bits(first), bits(last) + 1, CHUNK):
            stop = min(start + CHUNK, bits(last) + 1)
            x = np.arange(start, stop, dtype=np.uint32).view(np.float32)
            compare_chunk(function, x, cores, worst)
            count += x.size
    return worst, count


def compare_chunk(
    function: Function, x: Array, cores: dict[str, Any], worst: dict[str, Worst]
) -> None:
    """Compare all variants at `x` with the truth; those with the same bits only once."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        true = function.truth(x.astype(np.float64))
    groups: dict[bytes, set[str]] = defaultdict(set)  # variants that gave the same bits
    for name, core in cores.items():
        groups[core.elementary(function.name, x).tobytes()].add(name)
    for result_bits, names in groups.items():
        result = np.frombuffer(result_bits, np.float32)
        truth = true
        if function.name == "exp_in_safe_range":  # up to a factor: its value at 0
            core = cores[min(names)]
            truth = true * float(core.elementary(function.name, np.zeros(1, np.float32))[0])
        magnitude = np.abs(truth)
        normal = magnitude >= SMALLEST_NORMAL
        # One ULP of float32 at the truth: its power of two, taken from the bits, times 2⁻²³.
        power = np.maximum(magnitude, SMALLEST_NORMAL).view(np.int64) & (0x7FF << 52)
        ulp = power.view(np.float64) * 2.0**-23
        error = np.abs(result - truth)
        error /= ulp
        wrong = ~(normal | (error <= 1) | (result == 0)) | np.isnan(error)
        error[~normal] = 0
        position = int(np.argmax(error))
        for name in names:
            worst[name].same_as &= names
            worst[name].wrong += int(np.count_nonzero(wrong))
            if error[position] > worst[name].ulp:
                worst[name].ulp, worst[name].at = float(error[position]), float(x[position])


def row(function: Function, name: str, worst: Worst, count: int) -> str:
    """One line of the table."""
    same = ", ".join(sorted(worst.same_as - {name})) or "none"
    return (
        f"| {function.name} | {function.described} | {count:,} | {name} | {worst.ulp:.4f} "
        f"| {worst.at!r} = {worst.at.hex()} | {worst.wrong} | {same} |"
    )


def report(rows: list[str], seconds: float) -> str:
    """The whole Markdown file."""
    head = f"""\
# Elementary functions on every float32

{machine.processor()}; compiler {variants.core.COMPILER}; NumPy {np.__version__} in float64 as the
truth; one thread, {seconds / 60:.0f} minutes; {datetime.date.today()}. Written by
`python -m tools.exhaustive`.

Errors are in ULP of float32 at the truth, wherever that is a normal number. Wrong: results that are
NaN or, for a subnormal truth, neither 0 nor within the smallest subnormal of it.

| function | range | numbers | variant | worst ULP | at | wrong | same bits as |
|---|---|--:|---|--:|---|--:|---|
"""
    return head + "\n".join(rows) + "\n"


def main() -> int:
    """Measure, print, and write the result unless only a part of it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[f.name for f in FUNCTIONS])
    only = parser.parse_args().only
    cores = {name: variants.load(name) for name in variants.available()}
    started, rows, wrong = time.monotonic(), [], 0
    for function in FUNCTIONS:
        if only not in (None, function.name):
            continue
        worst, count = measure(function, cores)
        for name, found in worst.items():
            rows.append(row(function, name, found, count))
            print(rows[-1], flush=True)
            wrong += found.wrong
        if only is None:  # after each function, so that an interrupted run keeps its results
            OUTPUT.write_text(report(rows, time.monotonic() - started), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
